// Command etcd is a store of one member: the server of etcd, with what it is to hold from the start.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/signal"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	data := flag.String("data-dir", "data", "directory of the store")
	client := flag.String("listen-client-urls", "http://127.0.0.1:2379", "URL for clients")
	keys := flag.String("keys", "", "JSON file of keys and values, written where a key is not there yet")
	ready := flag.String("ready", "127.0.0.1:2378", "address that is listened on once clients are served and the keys are there")
	flag.Parse()

	at, err := url.Parse(*client)
	if err != nil {
		return err
	}
	own, err := url.Parse("http://127.0.0.1:2380") // nobody calls a member that is alone
	if err != nil {
		return err
	}
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.UnsafeNoFsync = *data, "error", true
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*at}, []url.URL{*at}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*own}, []url.URL{*own}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.TickMs, c.ElectionMs = 10, 100 // there is nobody to vote against
	e, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	defer e.Close()
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		return err
	}
	if err := write(e, *keys); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *ready)
	if err != nil {
		return err
	}
	defer l.Close()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM, unix.SIGINT)
	select {
	case <-ended:
		return nil
	case err := <-e.Err():
		return err
	}
}

// write writes the keys of a file that are not there yet.
func write(e *embed.Etcd, file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	ctx := context.Background()
	for key, value := range keys {
		found, err := e.Server.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(key)})
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if found.Count > 0 {
			continue
		}
		if _, err := e.Server.Put(ctx, &etcdserverpb.PutRequest{Key: []byte(key), Value: value}); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}
