package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modebench/modebench/modes"
)

// remedies say how a kernel can be given what it lacks, by the name of the need.
var remedies = map[string]string{
	"underlay": "a kernel with veth and bridge: sudo modprobe veth; sudo modprobe bridge",
	"veth":     "sudo modprobe veth",
	"bridge":   "sudo modprobe bridge",
	"macvlan":  "sudo modprobe macvlan, or a kernel with CONFIG_MACVLAN",
	"nftables": "sudo modprobe nf_tables, or a kernel with CONFIG_NF_TABLES_INET",
	"nft-nat":  "sudo modprobe nft_masq, or a kernel with CONFIG_NFT_NAT and CONFIG_NFT_MASQ",
	"tbf":      "sudo modprobe sch_tbf",
	"netem":    "sudo modprobe sch_netem",
}

func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Tell what this machine can do, mode by mode, and the remedy for what it cannot", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			m := machine()
			rights := "root"
			if m.Rootless {
				rights = "an ordinary user, by user namespaces"
			}
			fmt.Fprintf(out, "%s, kernel %s, %d CPUs, as %s\n\n", m.OS, m.Kernel, m.CPUs, rights)
			need := []string{"underlay", "tbf", "netem"}
			for _, mode := range modes.All() {
				for _, k := range mode.Needs {
					need = append(need, string(k))
				}
			}
			missing, err := lacks(cmd.Context(), need)
			if errors.Is(err, errIsolation) {
				fmt.Fprintf(out, "  ✗ labs: %v\n      remedy: %s\n", err, isolationRemedy())
				return coded{nil, exitNothing}
			}
			if err != nil {
				return coded{err, exitNothing}
			}
			able := 0
			line := func(name string, needs ...string) {
				var lacking []string
				for _, k := range needs {
					if why := missing[k]; why != "" {
						lacking = append(lacking, fmt.Sprintf("      lacks %s: %s\n      remedy: %s\n", k, why, remedies[k]))
					}
				}
				if len(lacking) == 0 {
					fmt.Fprintf(out, "  ✓ %s\n", name)
					able++
					return
				}
				fmt.Fprintf(out, "  ✗ %s\n%s", name, strings.Join(lacking, ""))
			}
			line("labs of hosts, switches and containers", "underlay")
			for _, mode := range modes.All() {
				needs := []string{"underlay"}
				for _, k := range mode.Needs {
					needs = append(needs, string(k))
				}
				line("mode "+mode.Name, needs...)
			}
			line("impairment: rate", "tbf")
			line("impairment: delay and loss", "netem")
			if missing["underlay"] != "" {
				return coded{nil, exitNothing}
			}
			return nil
		},
	}
}
