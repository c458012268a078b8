package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology/daemons"
)

// remedies say how a kernel can be given what it lacks, by the name of the need.
var remedies = map[string]string{
	"underlay":       "a kernel with veth and bridge: sudo modprobe veth; sudo modprobe bridge",
	"veth":           "sudo modprobe veth",
	"bridge":         "sudo modprobe bridge",
	"macvlan":        "sudo modprobe macvlan, or a kernel with CONFIG_MACVLAN",
	"nftables":       "sudo modprobe nf_tables, or a kernel with CONFIG_NF_TABLES_INET",
	"ipvlan":         "sudo modprobe ipvlan, or a kernel with CONFIG_IPVLAN",
	"802.1q":         "sudo modprobe 8021q, or a kernel with CONFIG_VLAN_8021Q",
	"vlan-filtering": "a kernel with CONFIG_BRIDGE_VLAN_FILTERING",
	"fdb-limit":      "a kernel since 6.7",
	"nft-netdev":     "a kernel since 5.16 with CONFIG_NF_TABLES_NETDEV and CONFIG_NETFILTER_EGRESS",
	"nft-bridge":     "sudo modprobe nft_meta_bridge, or a kernel with CONFIG_NF_TABLES_BRIDGE and CONFIG_NFT_BRIDGE_META",
	"nft-nat":        "sudo modprobe nft_masq, or a kernel with CONFIG_NFT_NAT and CONFIG_NFT_MASQ",
	"nft-balance":    "sudo modprobe -a nft_numgen nft_hash nft_nat, or a kernel with CONFIG_NFT_NUMGEN, CONFIG_NFT_HASH and CONFIG_NFT_NAT",
	"vxlan":          "sudo modprobe vxlan, or a kernel with CONFIG_VXLAN",
	"ipip":           "sudo modprobe ipip, or a kernel with CONFIG_NET_IPIP",
	"tun":            "sudo modprobe tun, or a kernel with CONFIG_TUN, and /dev/net/tun",
	"ifb":            "sudo modprobe -a ifb cls_u32 act_mirred sch_ingress",
	"tbf":            "sudo modprobe sch_tbf",
	"netem":          "sudo modprobe sch_netem",
}

func doctorCommand() *cobra.Command {
	var cache, file, inventory string
	c := &cobra.Command{
		Use: "doctor", Short: "Tell what this machine can do, mode by mode and on which kernel, and the remedy for what it cannot", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			p, _, err := readPlan(file)
			if err != nil {
				return err
			}
			if inventory != "" {
				v, err := readInventory(inventory, p.Topology)
				if err != nil {
					return err
				}
				return doctorMachines(cmd.Context(), out, v, p)
			}
			m := machine()
			rights := "root"
			if m.Rootless {
				rights = "an ordinary user, by user namespaces"
			}
			fmt.Fprintf(out, "%s, kernel %s, %d CPUs, as %s\n\n", m.OS, m.Kernel, m.CPUs, rights)
			ks := &kernels{cache: cache, only: true, say: cmd.ErrOrStderr(), span: func(_ string, f func() error) error { return f() }}
			all, err := ks.assign(cmd.Context(), []string{autoKernel}, modes.All(), p.Topology)
			if errors.Is(err, errIsolation) {
				fmt.Fprintf(out, "  ✗ labs: %v\n      remedy: %s\n", err, isolationRemedy())
				return coded{nil, exitNothing}
			}
			if err != nil {
				return coded{err, exitNothing}
			}
			own := ks.grounds[0]
			line := func(name string, needs ...string) (able bool) {
				var lacking []string
				for _, k := range needs {
					if why := own.missing[k]; why != "" {
						lacking = append(lacking, fmt.Sprintf("      lacks %s: %s\n      remedy: %s\n", k, why, remedies[k]))
					}
				}
				if len(lacking) == 0 {
					fmt.Fprintf(out, "  ✓ %s\n", name)
					return true
				}
				fmt.Fprintf(out, "  ✗ %s\n%s", name, strings.Join(lacking, ""))
				return false
			}
			able := 0
			line("labs of hosts, switches and containers", "underlay")
			for _, a := range all {
				switch {
				case a.why != "" && a.plan != nil && own.lacks(a.Requires(a.plan)) != "":
					line("mode "+a.Name, a.Requires(a.plan)...)
					for _, why := range strings.Split(a.why, "; ")[1:] {
						fmt.Fprintf(out, "      %s\n", why)
					}
					continue
				case a.why != "":
					fmt.Fprintf(out, "  ✗ mode %s\n      %s\n", a.Name, a.why)
					continue
				case a.since != "":
					fmt.Fprintf(out, "  ✓ mode %s, in %s\n      %s\n", a.Name, a.ground, a.since)
				case len(a.Programs) > 0 && daemons.Programs.Built(cache, a.Programs...) == "":
					fmt.Fprintf(out, "  ✓ mode %s\n      when it is first run, its programs are built from source, with modules from the network: %s\n", a.Name, strings.Join(a.Programs, ", "))
				default:
					fmt.Fprintf(out, "  ✓ mode %s\n", a.Name)
				}
				able++
			}
			for _, s := range suites.Specs() {
				if why := own.absent(s.Programs); why != "" {
					fmt.Fprintf(out, "  ✗ experiment %s\n      %s\n", s.Feature.Name, why)
				}
			}
			if _, why := ks.engine(own); why != "" {
				fmt.Fprintf(out, "  ✗ implementation %s\n      %s\n", modes.ByDocker, why)
			} else {
				fmt.Fprintf(out, "  ✓ implementation %s\n", modes.ByDocker)
			}
			for _, g := range ks.grounds {
				if g.guest != nil && g.guest.Unaccelerated != "" {
					fmt.Fprintf(out, "  ✗ KVM for %s\n      %s\n", g, indent(g.guest.Unaccelerated, 6))
				}
			}
			line("impairment: rate", "tbf")
			line("impairment: delay, jitter, reorder and loss", "netem")
			if able == 0 {
				return coded{nil, exitNothing}
			}
			return nil
		},
	}
	cacheFlag(c, &cache)
	topologyFlag(c, &file)
	inventoryFlag(c, &inventory)
	return c
}
