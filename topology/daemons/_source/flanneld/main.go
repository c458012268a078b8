// Command flanneld is flannel's daemon made of flannel's own packages: the backends vxlan, host-gw and udp, leases in etcd, and rules
// of nftables. Its flags are those of the daemon that flannel builds, and mean the same, but for -healthz-port.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"github.com/joho/godotenv"
	"golang.org/x/sys/unix"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/udp"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/etcd"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	endpoints := flag.String("etcd-endpoints", "http://127.0.0.1:2379", "URLs of etcd, with commas between them")
	prefix := flag.String("etcd-prefix", "/coreos.com/network", "what the keys begin with")
	iface := flag.String("iface", "", "interface, or an address of it, by which hosts reach each other")
	public := flag.String("public-ip", "", "IPv4 address by which other hosts reach this one; empty: that of the interface")
	file := flag.String("subnet-file", "/run/flannel/subnet.env", "file of the lease; what it holds at the start is the lease that is asked for")
	masquerade := flag.Bool("ip-masq", false, "masquerade what leaves the network")
	health := flag.Int("healthz-port", 0, "port of the loopback that is listened on once the host is ready; 0: none")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	before := previous(*file)
	if err := answers(ctx, strings.Split(*endpoints, ",")); err != nil {
		return err
	}
	sm, err := etcd.NewLocalManager(ctx, &etcd.EtcdConfig{Endpoints: strings.Split(*endpoints, ","), Prefix: *prefix}, before.v4, before.v6, 60)
	if err != nil {
		return err
	}
	config, err := configured(ctx, sm)
	if err != nil {
		return err
	}
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return err
	}
	ext, err := ipmatch.LookupExtIface(*iface, "", "", stack, ipmatch.PublicIPOpts{PublicIP: *public})
	if err != nil {
		return err
	}
	be, err := backend.NewManager(ctx, sm, ext).GetBackend(config.BackendType)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	network, err := be.RegisterNetwork(ctx, &wg, config)
	if err != nil {
		return fmt.Errorf("backend %s: %w", config.BackendType, err)
	}
	lease := network.Lease()
	var rules nftables.NFTablesManager
	if err := rules.Init(ctx); err != nil {
		return err
	}
	const resync = 5 // seconds; nftables are written once
	if *masquerade {
		if err := rules.SetupAndEnsureMasqRules(ctx, config.Network, before.v4, before.network4, config.IPv6Network, before.v6, before.network6, lease, resync, false); err != nil {
			return err
		}
	}
	rules.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, resync)
	if err := sm.HandleSubnetFile(*file, config, *masquerade, lease.Subnet, lease.IPv6Subnet, network.MTU()); err != nil {
		return err
	}
	wg.Go(func() { network.Run(ctx) })
	if *health != 0 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *health))
		if err != nil {
			return err
		}
		defer l.Close()
	}
	err = sm.CompleteLease(ctx, lease, &wg) // until the lease is revoked
	if ctx.Err() != nil {
		err = nil // asked to end
	}
	cancel()
	wg.Wait()
	return err
}

// again is how long to wait before what was in vain is tried once more.
const again = 20 * time.Millisecond

// answers waits until one of the stores can be called: the client would wait ever longer after each call in vain.
func answers(ctx context.Context, endpoints []string) error {
	for {
		for _, e := range endpoints {
			at, err := url.Parse(e)
			if err != nil {
				return err
			}
			if c, err := net.DialTimeout("tcp", at.Host, time.Second); err == nil {
				return c.Close()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// configured waits until the store has the network's configuration.
func configured(ctx context.Context, sm subnet.Manager) (*subnet.Config, error) {
	const attempt = time.Second
	for {
		asking, cancel := context.WithTimeout(ctx, attempt)
		config, err := sm.GetNetworkConfig(asking)
		cancel()
		if err == nil {
			return config, nil
		}
		fmt.Fprintln(os.Stderr, "configuration:", err)
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(again):
		}
	}
}

// held is what a file of a lease holds.
type held struct {
	network4, v4 ip.IP4Net
	network6, v6 ip.IP6Net
}

// previous reads the file of a lease. What is not there is empty.
func previous(file string) (h held) {
	h.network6, h.v6 = ip.IP6Net{IP: new(ip.IP6)}, ip.IP6Net{IP: new(ip.IP6)}
	values, err := godotenv.Read(file)
	if err != nil {
		return h
	}
	four := func(key string) (n ip.IP4Net) {
		if _, p, err := net.ParseCIDR(values[key]); err == nil {
			n = ip.FromIPNet(p)
		}
		return n
	}
	six := func(key string) ip.IP6Net {
		if _, p, err := net.ParseCIDR(values[key]); err == nil {
			return ip.FromIP6Net(p)
		}
		return ip.IP6Net{IP: new(ip.IP6)}
	}
	h.network4, h.v4 = four("FLANNEL_NETWORK"), four("FLANNEL_SUBNET")
	h.network6, h.v6 = six("FLANNEL_IPV6_NETWORK"), six("FLANNEL_IPV6_SUBNET")
	return h
}
