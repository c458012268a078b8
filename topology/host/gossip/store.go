package gossip

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/topology"
)

// How a member keeps in touch with its store.
const (
	renewal = topology.StoreTTL / 5 // between two words that it is alive
	answer  = time.Second           // until the store is held for gone
	atOnce  = 16                    // connections to it
)

// storePrefix is what all keys begin with.
const storePrefix = "overlay/"

// watcher is one life in a cluster whose members write to a store, etcd, and watch it. It is spoken to in JSON over HTTP (etcd's gRPC gateway,
// https://etcd.io/docs/v3.6/dev-guide/api_grpc_gateway/). What a member writes is bound to a lease that it renews: the store
// takes it out when the member does not. While the store is gone, a member holds for true what it knew last.
type watcher struct {
	service *Service
	config  topology.Gossip
	store   http.Client
	life    context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup
	wake    chan struct{} // there may be something to write

	mu      sync.Mutex
	lease   json.Number // the last one; empty: there was none yet
	pending map[key]record
}

// watch begins a life in the namespace of the calling thread's process. It does not wait for the store.
func watch(s *Service, g topology.Gossip) (member, error) {
	w := &watcher{service: s, config: g, wake: make(chan struct{}, 1), pending: map[key]record{}}
	w.store.Transport = &http.Transport{MaxIdleConnsPerHost: 1, MaxConnsPerHost: atOnce, DialContext: (&net.Dialer{Timeout: answer}).DialContext}
	w.life, w.stop = context.WithCancel(context.Background())
	w.done.Add(1)
	go func() {
		defer w.done.Done()
		for w.life.Err() == nil {
			_ = w.session() // again, until it is the member that ends
			select {
			case <-time.After(rejoin):
			case <-w.life.Done():
			}
		}
	}()
	return w, nil
}

// session is a time in which the store is in reach.
func (w *watcher) session() error {
	var granted struct{ ID json.Number }
	if err := w.ask(w.life, "lease/grant", map[string]any{"TTL": topology.StoreTTL / time.Second}, &granted); err != nil {
		return err
	}
	w.mu.Lock()
	w.lease = granted.ID
	w.mu.Unlock()
	me := map[string]any{"key": []byte(topology.StoreMembers + w.config.Name), "value": []byte(w.config.Addr.String()), "lease": granted.ID}
	if err := w.ask(w.life, "kv/put", me, nil); err != nil {
		return err
	}
	var all struct {
		Header struct{ Revision json.Number }
		Kvs    []pair
	}
	if err := w.ask(w.life, "kv/range", everything(), &all); err != nil {
		return err
	}
	from, err := all.Header.Revision.Int64()
	if err != nil {
		return err
	}
	var records []record
	alive := map[string]string{}
	for _, p := range all.Kvs {
		if name, ok := p.member(); ok {
			alive[name] = string(p.Value)
		} else {
			records = append(records, unpacked(p.Value)...)
		}
	}
	for _, r := range w.service.learn(records, alive) {
		w.tell(r)
	}
	g, ctx := errgroup.WithContext(w.life)
	g.Go(func() error { return w.renew(ctx, granted.ID) })
	g.Go(func() error { return w.listen(ctx, from+1) })
	g.Go(func() error { return w.write(ctx, granted.ID) })
	return g.Wait()
}

// everything is the range of all keys.
func everything() map[string]any {
	end := []byte(storePrefix)
	end[len(end)-1]++
	return map[string]any{"key": []byte(storePrefix), "range_end": end}
}

// pair is a key of the store and what it holds.
type pair struct {
	Key, Value  []byte
	ModRevision json.Number `json:"mod_revision"`
}

// member is whose key it is; not ok: an endpoint's.
func (p pair) member() (name string, ok bool) {
	return strings.CutPrefix(string(p.Key), topology.StoreMembers)
}

// renew keeps the lease until it is lost.
func (w *watcher) renew(ctx context.Context, lease json.Number) error {
	for {
		var kept struct{ Result struct{ TTL json.Number } }
		if err := w.ask(ctx, "lease/keepalive", map[string]any{"ID": lease}, &kept); err != nil {
			return err
		}
		if left, err := kept.Result.TTL.Int64(); err != nil || left <= 0 {
			return errors.Join(err, errors.New("the lease has ended"))
		}
		select {
		case <-time.After(renewal):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listen takes what changes in the store, from a revision on.
func (w *watcher) listen(ctx context.Context, from int64) error {
	asked := everything()
	asked["start_revision"], asked["prev_kv"] = from, true
	body, err := w.post(ctx, "watch", map[string]any{"create_request": asked})
	if err != nil {
		return err
	}
	defer body.Close()
	said := json.NewDecoder(body)
	for {
		var news struct {
			Error  json.RawMessage
			Result struct {
				Canceled bool
				Events   []struct {
					Type string // of a put, which is the zero of its kind, it may be left out
					KV   pair   `json:"kv"`
					Prev pair   `json:"prev_kv"`
				}
			}
		}
		if err := said.Decode(&news); err != nil {
			return err
		}
		if news.Error != nil || news.Result.Canceled {
			return fmt.Errorf("the watch has ended: %s", news.Error)
		}
		for _, e := range news.Result.Events {
			name, member := e.KV.member()
			switch gone := e.Type == "DELETE"; {
			case member:
				w.service.turned(name, string(e.KV.Value), !gone)
			case gone:
				w.service.forget(unpacked(e.Prev.Value)...)
			default:
				w.service.hear(unpacked(e.KV.Value)...)
			}
		}
	}
}

// write writes what is told of, all that there is at once.
func (w *watcher) write(ctx context.Context, lease json.Number) error {
	for {
		g, now := errgroup.WithContext(ctx)
		for _, r := range w.due() {
			g.Go(func() error {
				if err := w.put(now, lease, r); err != nil {
					return err
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.pending[r.key()].Clock == r.Clock {
					delete(w.pending, r.key())
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// due is what is not written yet.
func (w *watcher) due() []record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.pending))
}

// put writes a record, or takes it out, unless another member has said later that it has the endpoint.
func (w *watcher) put(ctx context.Context, lease json.Number, r record) error {
	k := fmt.Appendf(nil, "%s%d/%s", topology.StoreEndpoints, r.VNI, net.HardwareAddr(r.MAC))
	do := map[string]any{"request_put": map[string]any{"key": k, "value": packed([]record{r}), "lease": lease}}
	if r.Gone {
		do = map[string]any{"request_delete_range": map[string]any{"key": k}}
	}
	for revision := json.Number("0"); ; { // of a key that is not there
		var done struct {
			Succeeded bool
			Responses []struct {
				Range struct{ Kvs []pair } `json:"response_range"`
			}
		}
		if err := w.ask(ctx, "kv/txn", map[string]any{
			"compare": []any{map[string]any{"key": k, "target": "MOD", "result": "EQUAL", "mod_revision": revision}},
			"success": []any{do},
			"failure": []any{map[string]any{"request_range": map[string]any{"key": k}}},
		}, &done); err != nil {
			return err
		}
		if done.Succeeded {
			return nil
		}
		revision = "0"
		for _, found := range done.Responses {
			for _, p := range found.Range.Kvs {
				revision = p.ModRevision
				for _, is := range unpacked(p.Value) {
					if is.Owner != r.Owner && (r.Gone || !r.newer(is)) {
						return nil
					}
				}
			}
		}
	}
}

// tell is of member. What others said is in the store already.
func (w *watcher) tell(r record) {
	if r.Owner != w.config.Name {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending[r.key()] = r
	select {
	case w.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// end is of member. The store finds out when the lease has ended.
func (w *watcher) end() error {
	w.stop()
	w.done.Wait()
	w.store.CloseIdleConnections()
	return nil
}

// leave is of member.
func (w *watcher) leave() error {
	w.stop()
	w.done.Wait()
	if w.lease != "" {
		_ = w.ask(context.Background(), "lease/revoke", map[string]any{"ID": w.lease}, nil)
	}
	w.store.CloseIdleConnections()
	return nil
}

// ask asks the store, which has to answer soon.
func (w *watcher) ask(ctx context.Context, what string, question, reply any) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	body, err := w.post(ctx, what, question)
	if err != nil {
		return err
	}
	defer body.Close()
	if reply == nil {
		reply = new(struct{})
	}
	if err := json.NewDecoder(body).Decode(reply); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, body) // so that the connection is kept
	return err
}

// post gives the answer's body, to be closed.
func (w *watcher) post(ctx context.Context, what string, question any) (io.ReadCloser, error) {
	text, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s/v3/%s", w.config.Store, what), bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	a, err := w.store.Do(q)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK {
		defer a.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(a.Body, 1000))
		return nil, fmt.Errorf("%s: %s: %s", what, a.Status, said)
	}
	return a.Body, nil
}
