package bgp

import (
	"fmt"
	"sync"

	"github.com/osrg/gobgp/v3/pkg/log"
)

// words hears what GoBGP logs, of which it keeps why each session ended and says nothing. Unlike GoBGP's own logger it does
// not end the process.
type words struct {
	mu   sync.Mutex
	last map[string]last // by neighbour
}

type last struct{ notification, reason string }

func (w *words) hear(msg string, f log.Fields) {
	peer := fmt.Sprint(f["Key"])
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		w.last = map[string]last{}
	}
	l := w.last[peer]
	switch msg {
	case "Peer Up":
		l = last{}
	case "Peer Down":
		l.reason = fmt.Sprint(f["Reason"])
	case "sent notification", "received notification":
		if code, ok := f["Code"]; ok {
			l.notification = fmt.Sprintf("%s %v/%v", msg, code, f["Subcode"])
		}
	case "hold timer expired":
		l.notification = msg
	default:
		return
	}
	w.last[peer] = l
}

// why a neighbour's session ended.
func (w *words) why(peer string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.last[peer]
	if l.notification == "" {
		return l.reason
	}
	return l.reason + ": " + l.notification
}

func (w *words) Panic(msg string, f log.Fields) { w.hear(msg, f) }
func (w *words) Fatal(msg string, f log.Fields) { w.hear(msg, f) }
func (w *words) Error(msg string, f log.Fields) { w.hear(msg, f) }
func (w *words) Warn(msg string, f log.Fields)  { w.hear(msg, f) }
func (w *words) Info(msg string, f log.Fields)  { w.hear(msg, f) }
func (w *words) Debug(string, log.Fields)       {}
func (w *words) SetLevel(log.LogLevel)          {}
func (w *words) GetLevel() log.LogLevel         { return log.InfoLevel }
