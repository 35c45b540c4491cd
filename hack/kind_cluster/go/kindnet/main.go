// kindnet is the Pod network of nodes whose image is built here: kind's own kindnetd is published as an image only.
//
// Concept: a node's Pods get addresses of the node's Pod range through the CNI plugins ptp and host-local; each other node's range is
// one route to that node's address; what leaves the Pod network is masqueraded; NetworkPolicies hold (policies.go). Every second the
// state of the Nodes and policies is applied anew.
// Boundary: IPv4, one flat network between containers of one engine.
// Failure: what cannot be applied is logged and tried again; without the API server the last state stays.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/rest"
)

const (
	configurationFile = "/etc/cni/net.d/10-kindnet.conflist"
	chain             = "FLEETPACK-MASQUERADE"
	interval          = time.Second
)

// The one argument is the Pod range of this node.
const configuration = `{
  "cniVersion": "0.4.0",
  "name": "kindnet",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni-ipam-state",
        "ranges": [[{"subnet": %q}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

func main() {
	own, podNetworks := os.Getenv("HOST_IP"), os.Getenv("POD_SUBNET")
	if own == "" || podNetworks == "" {
		log.Fatal("HOST_IP and POD_SUBNET must be set, as kind's manifest does")
	}
	nodes, policies := watch(context.Background())
	for ; ; time.Sleep(interval) {
		if err := masqueradeOutside(strings.Split(podNetworks, ",")); err != nil {
			log.Print(err)
		}
		if err := queueConnections(policies); err != nil {
			log.Print(err)
		}
		all, err := nodes.List(labels.Everything())
		if err != nil {
			log.Print(err)
		}
		for _, node := range all {
			if err := apply(node, own); err != nil {
				log.Printf("node %s: %v", node.Name, err)
			}
		}
	}
}

func watch(ctx context.Context) (listers.NodeLister, policylisters.NetworkPolicyLister) {
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	// Services need kube-proxy, which need not be there yet: kind gives the API server's own address.
	if endpoint := os.Getenv("CONTROL_PLANE_ENDPOINT"); endpoint != "" {
		config.Host = "https://" + endpoint
	}
	client := kubernetes.NewForConfigOrDie(config)
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes, policies := factory.Core().V1().Nodes().Lister(), factory.Networking().V1().NetworkPolicies().Lister()
	judgePolicies(ctx, client, factory)
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return nodes, policies
}

// apply writes this node's CNI configuration, or the route to another node's Pods.
func apply(node *corev1.Node, own string) error {
	address := internalAddress(node)
	if address == "" || node.Spec.PodCIDR == "" {
		return nil
	}
	if address == own {
		return writeConfiguration(fmt.Sprintf(configuration, node.Spec.PodCIDR))
	}
	_, pods, err := net.ParseCIDR(node.Spec.PodCIDR)
	if err != nil {
		return err
	}
	return netlink.RouteReplace(&netlink.Route{Dst: pods, Gw: net.ParseIP(address)})
}

func internalAddress(node *corev1.Node) string {
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return address.Address
		}
	}
	return ""
}

// writeConfiguration replaces the file whole: containerd reads it whenever the folder changes.
func writeConfiguration(content string) error {
	if there, err := os.ReadFile(configurationFile); err == nil && string(there) == content {
		return nil
	}
	temporary := configurationFile + ".new"
	if err := os.WriteFile(temporary, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, configurationFile)
}

// masqueradeOutside gives traffic to anywhere but the Pod networks the node's own address.
func masqueradeOutside(podNetworks []string) error {
	// Fails when the chain is there already, which the rules below then show.
	_ = iptables("nat", "-N", chain)
	for _, network := range podNetworks {
		if err := ensureRule("nat", chain, "-d", network, "-j", "RETURN"); err != nil {
			return err
		}
	}
	if err := ensureRule("nat", chain, "-j", "MASQUERADE"); err != nil {
		return err
	}
	return ensureRule("nat", "POSTROUTING", "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", chain)
}

func ensureRule(table string, rule ...string) error {
	if iptables(table, append([]string{"-C"}, rule...)...) == nil {
		return nil
	}
	return iptables(table, append([]string{"-A"}, rule...)...)
}

func iptables(table string, arguments ...string) error {
	output, err := exec.Command("iptables", append([]string{"-w", "-t", table}, arguments...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(arguments, " "), err, output)
	}
	return nil
}
