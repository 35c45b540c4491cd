// kind-probe is the one program of the image with which tests/kind/test_cluster.py looks at a cluster: it serves its Pod's name, and asks
// others. Boundary: the standard library alone, no shell around it. Failure: what cannot be done is said on standard error, with exit code 1.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strings"
	"time"
)

const limit = 5 * time.Second

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: kind-probe serve | get URL | lookup NAME | dial ADDRESS"))
	}
	switch command, rest := os.Args[1], os.Args[2:]; {
	case command == "serve" && len(rest) == 0:
		serve()
	case command == "get" && len(rest) == 1:
		get(rest[0])
	case command == "lookup" && len(rest) == 1:
		lookup(rest[0])
	case command == "dial" && len(rest) == 1:
		dial(rest[0])
	default:
		fail(fmt.Errorf("unknown: %s", strings.Join(os.Args[1:], " ")))
	}
}

// serve answers with the Pod's name, and below /from with the asking address.
func serve() {
	name, err := os.Hostname()
	if err != nil {
		fail(err)
	}
	http.HandleFunc("/", func(writer http.ResponseWriter, _ *http.Request) { fmt.Fprintln(writer, name) })
	http.HandleFunc("/from", func(writer http.ResponseWriter, request *http.Request) {
		address, _, _ := net.SplitHostPort(request.RemoteAddr)
		fmt.Fprintln(writer, address)
	})
	fmt.Println("serving as", name)
	fail(http.ListenAndServe(":8080", nil))
}

func get(url string) {
	// A connection of its own each time: a Service chooses once per connection.
	client := http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		fail(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		fail(err)
	}
	if answer.StatusCode != http.StatusOK {
		fail(fmt.Errorf("%s: %s", url, answer.Status))
	}
}

func lookup(name string) {
	addresses, err := net.LookupHost(name)
	if err != nil {
		fail(err)
	}
	sort.Strings(addresses)
	fmt.Println(strings.Join(addresses, "\n"))
}

func dial(address string) {
	connection, err := net.DialTimeout("tcp", address, limit)
	if err != nil {
		fail(err)
	}
	connection.Close()
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
