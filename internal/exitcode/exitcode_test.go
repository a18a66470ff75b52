package exitcode

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	cases := []struct {
		name string
		err  error
		want int
	}{
		{"nil", nil, OK},
		{"plain", errors.New("x"), Failed},
		{"deadline", fmt.Errorf("read: %w", context.DeadlineExceeded), TimedOut},
		{"coded", Errorf(Refused, "would break quorum"), Refused},
		{"wrapped", fmt.Errorf("remove m2: %w", Errorf(Refused, "would break quorum")), Refused},
		{"code wins over deadline", Errorf(Unreachable, "m1: %w", context.DeadlineExceeded), Unreachable},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := Of(c.err); got != c.want {
				t.Errorf("Of(%v) = %d, want %d", c.err, got, c.want)
			}
		})
	}
}

func TestPrintShowsHint(t *testing.T) {
	var b strings.Builder
	Print(&b, "hactl", fmt.Errorf("up: %w", Errorf(Refused, "port 6443 is taken").WithHint("hactl dev up --front-door 127.0.0.1:7443")))
	want := "hactl: up: port 6443 is taken\ntry: hactl dev up --front-door 127.0.0.1:7443\n"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
