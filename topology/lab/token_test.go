package lab

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestTokenIsFoundBehindAnyHeader(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		token := rapid.StringMatching(`[a-z0-9.#-]{1,24}`).Draw(t, "token")
		head := rapid.SliceOfN(rapid.ByteMax('l'), 0, 80).Draw(t, "headers") // "mb!" cannot begin in them
		size := rapid.IntRange(0, 200).Draw(t, "size")
		p := Payload(token, size)
		if want := max(size, len(token)+4); len(p) != want {
			t.Fatalf("payload of %d bytes, want %d", len(p), want)
		}
		got, rest := Token(append(head, p...))
		if got != token || strings.Trim(string(rest), ".") != "" {
			t.Fatalf("Token = %q, %q, want %q", got, rest, token)
		}
		cut := rapid.IntRange(0, len(token)+3).Draw(t, "cut")
		if got, _ := Token(p[:cut]); got != "" {
			t.Fatalf("Token of a payload cut within the token = %q", got)
		}
	})
}
