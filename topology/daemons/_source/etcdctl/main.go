// Command etcdctl deletes a key of a store, and tells that it is done by listening.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	endpoints := flag.String("endpoints", "http://127.0.0.1:2379", "URLs of the store, with commas between them")
	key := flag.String("del", "", "key to delete, which has to be there")
	ready := flag.String("ready", "", "address that is listened on once it is done, until the program is asked to end")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(*endpoints, ",")})
	if err != nil {
		return err
	}
	defer client.Close()
	const patience = 5 * time.Second
	asking, late := context.WithTimeout(ctx, patience)
	defer late()
	done, err := client.Delete(asking, *key)
	if err != nil {
		return err
	}
	if done.Deleted != 1 {
		return fmt.Errorf("%s: no such key", *key)
	}
	l, err := net.Listen("tcp", *ready)
	if err != nil {
		return err
	}
	defer l.Close()
	<-ctx.Done()
	return nil
}
