package main

import (
	"context"
	"log"
	"strconv"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/networking/v1"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

const (
	policyChain = "FLEETPACK-POLICIES"
	policyQueue = 100
)

// judgePolicies lets kube-network-policies, which is in kind's own kindnetd as well, judge the packets of its queue.
//
// It would also bring packets there itself, by nftables' `queue`; kernels without that (CONFIG_NFT_QUEUE) have iptables' target NFQUEUE,
// so `queueConnections` does it. What it cannot judge passes: a busy machine must not look like a policy.
func judgePolicies(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory) {
	core := factory.Core().V1()
	controller, err := networkpolicy.NewController(
		client, factory.Networking().V1().NetworkPolicies(), core.Namespaces(), core.Pods(),
		nil, nil, nil, nil, networkpolicy.Config{FailOpen: true, QueueID: policyQueue},
	)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		// A kernel without NFQUEUE must not cost the nodes their network.
		log.Printf("network policies do not hold on this node: %v", controller.Run(ctx))
	}()
}

// queueConnections sends the first packet of each connection to the judge while there is any policy, behind DNAT and before SNAT.
func queueConnections(policies listers.NetworkPolicyLister) error {
	all, err := policies.List(labels.Everything())
	if err != nil {
		return err
	}
	jump := []string{"POSTROUTING", "-j", policyChain}
	// It goes in last: where it is, the chain is whole.
	switch there := iptables("mangle", append([]string{"-C"}, jump...)...) == nil; {
	case there && len(all) == 0:
		return iptables("mangle", append([]string{"-D"}, jump...)...)
	case there || len(all) == 0:
		return nil
	}
	// Fails when the chain is there already, which the rules below then show.
	_ = iptables("mangle", "-N", policyChain)
	for _, rule := range [][]string{
		// The node itself: a kubelet's probes are never refused.
		{policyChain, "-m", "owner", "--uid-owner", "0", "-j", "RETURN"},
		{policyChain, "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "RETURN"},
		{policyChain, "-j", "NFQUEUE", "--queue-num", strconv.Itoa(policyQueue), "--queue-bypass"},
		jump,
	} {
		if err := ensureRule("mangle", rule...); err != nil {
			return err
		}
	}
	return nil
}
