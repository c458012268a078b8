package lab

import "bytes"

// TokenMax is the longest token of an Ask, in bytes.
const TokenMax = 24

// A token stands in a payload between these, so that a capture finds it behind any headers, and nothing of it where
// the payload was cut.
const (
	tokenBegin = "mb!"
	tokenEnd   = '\n'
)

// Payload is what a probe's message carries: its token, then padding up to size bytes. It is never shorter than the
// token asks for.
func Payload(token string, size int) []byte {
	b := append([]byte(tokenBegin+token), tokenEnd)
	if pad := size - len(b); pad > 0 {
		b = append(b, bytes.Repeat([]byte{'.'}, pad)...)
	}
	return b
}

// Token finds the first whole token in a payload, or in a packet that quotes or carries one, and gives what follows
// it. It is empty where there is none.
func Token(payload []byte) (token string, rest []byte) {
	for {
		_, after, found := bytes.Cut(payload, []byte(tokenBegin))
		if !found {
			return "", nil
		}
		if n := bytes.IndexByte(after[:min(len(after), TokenMax+1)], tokenEnd); n > 0 {
			return string(after[:n]), after[n+1:]
		}
		payload = after
	}
}
