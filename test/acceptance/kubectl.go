package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
)

// How long one command may take, and how long one may wait for the cluster. On
// a busy machine of two cores everything takes its time; nothing waits longer
// than it must.
const (
	commandTimeout = 3 * time.Minute
	waitTimeout    = 2 * time.Minute
	patience       = "--timeout=2m"
)

// kubectl runs the real one.
type kubectl struct {
	program, kubeconfig, cache string
}

// copied returns a kubectl with a kubeconfig of its own, whose contexts it may
// change.
func (k kubectl) copied(t *testing.T) kubectl {
	t.Helper()
	data, err := os.ReadFile(k.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	k.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(k.kubeconfig, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

// run returns stdout, and stderr in the error.
func (k kubectl) run(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.kubeconfig, "KUBECACHEDIR="+k.cache)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// do runs a command that must work and returns what it printed, without the
// last newline.
func (k kubectl) do(t *testing.T, args ...string) string {
	t.Helper()
	return k.apply(t, "", args...)
}

// apply is do with an input, for "-f -".
func (k kubectl) apply(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := k.run(context.WithoutCancel(t.Context()), stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(out, "\n")
}

// refused runs a command that must fail and say so in the words of want.
func (k kubectl) refused(t *testing.T, want, stdin string, args ...string) {
	t.Helper()
	if err := k.refusal(t, want, stdin, args...); err != nil {
		t.Fatal(err)
	}
}

// refusal errs unless the command is refused in the words of want.
func (k kubectl) refusal(t *testing.T, want, stdin string, args ...string) error {
	t.Helper()
	out, err := k.run(t.Context(), stdin, args...)
	switch {
	case err == nil:
		return fmt.Errorf("kubectl %s worked: %s", strings.Join(args, " "), strings.TrimSpace(out))
	case !strings.Contains(err.Error(), want):
		return fmt.Errorf("refused for another reason than %q: %w", want, err)
	default:
		return nil
	}
}

// eventually waits until f is content.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	testwait.For(t, what, waitTimeout, f)
}

// prints waits until a command prints want.
func (k kubectl) prints(t *testing.T, want string, args ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("kubectl %s to print %q", strings.Join(args, " "), want), func() error {
		out, err := k.run(t.Context(), "", args...)
		if got := strings.TrimSpace(out); err == nil && got != want {
			return fmt.Errorf("it prints %q", got)
		}
		return err
	})
}

// as returns a kubectl that shows token instead of the administrator's
// certificate, which would win if both were shown. It has a kubeconfig of its
// own, made with kubectl config.
func (k kubectl) as(t *testing.T, user, token string) kubectl {
	t.Helper()
	dir := t.TempDir()
	other := kubectl{program: k.program, kubeconfig: filepath.Join(dir, "kubeconfig"), cache: filepath.Join(dir, "cache")}
	ca := filepath.Join(dir, "ca.crt")
	data := k.do(t, "config", "view", "--raw", "--minify", "--flatten", "-o=go-template={{index (index .clusters 0).cluster \"certificate-authority-data\" | base64decode}}")
	if err := os.WriteFile(ca, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	server := k.do(t, "config", "view", "--minify", jsonpath(".clusters[0].cluster.server"))
	other.do(t, "config", "set-cluster", "front-door", "--server="+server, "--certificate-authority="+ca, "--embed-certs")
	other.do(t, "config", "set-credentials", user, "--token="+token)
	other.do(t, "config", "set-context", user, "--cluster=front-door", "--user="+user)
	other.do(t, "config", "use-context", user)
	return other
}

// same errs unless both lists have the same elements, in any order.
func same(got, want []string) error {
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}
