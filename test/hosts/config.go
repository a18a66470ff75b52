package hosts

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/hactl/hactl/internal/logging"
	"github.com/hactl/hactl/test/hosts/internal/wire"
)

// Config says what lab to bring up. The zero value is a lab of three hosts that
// ends with the calling process.
type Config struct {
	// Name tells labs apart: a DNS label of at most 20 characters. Default: a
	// random one.
	Name string
	// Hosts is how many hosts there are, 1 to 200. Default 3, or as many as Names.
	Hosts int
	// Names are the hosts' names, DNS labels of at most 12 characters. Default m1,
	// m2, …
	Names []string
	// Packages are further Debian packages of the hosts' tree. Each set of packages
	// is a tree of its own in Cache, made once (half a minute).
	Packages []string
	// Binds are files and folders of the machine that every host sees.
	Binds []Bind
	// NspawnArgs are further arguments of systemd-nspawn, such as
	// --system-call-filter=… for a container runtime.
	NspawnArgs []string
	// Detach lets the lab outlive the calling process, until Down.
	Detach bool
	// Dir has a folder for each lab, with the hosts' disks. It must lie on a file
	// system that can be an overlay's upper layer. Default $HACTL_LAB_DIR or
	// /var/lib/hactl-lab.
	Dir string
	// Cache has the trees. Default $HACTL_LAB_CACHE or /var/cache/hactl-lab.
	Cache string
	// Program is the lab command, which is started as guard and as keeper. Default:
	// it is built from this module, in which the working folder must then lie.
	Program string
	Logger  *slog.Logger // nil: nothing is said
}

// Bind is a file or folder of the machine that every host sees at Target, which
// both are absolute paths.
type Bind = wire.Bind

const (
	defaultHosts = 3
	defaultDir   = "/var/lib/hactl-lab"
	defaultCache = "/var/cache/hactl-lab"
	// maxDir leaves room for the longest socket path (sockaddr_un has 108 bytes).
	maxDir = 60
)

// withDefaults returns a copy of c that is complete, or everything that is wrong
// with it.
func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "t" + strings.ToLower(rand.Text()[:8])
	}
	if c.Hosts == 0 {
		c.Hosts = defaultHosts
		if len(c.Names) > 0 {
			c.Hosts = len(c.Names)
		}
	}
	c.Names, c.Binds = slices.Clone(c.Names), slices.Clone(c.Binds)
	if len(c.Names) == 0 {
		for i := range min(max(c.Hosts, 0), wire.MaxHosts) {
			c.Names = append(c.Names, fmt.Sprintf("m%d", i+1))
		}
	}
	c.Dir = firstOf(c.Dir, os.Getenv("HACTL_LAB_DIR"), defaultDir)
	c.Cache = firstOf(c.Cache, os.Getenv("HACTL_LAB_CACHE"), defaultCache)
	if c.Logger == nil {
		c.Logger = logging.Discard()
	}
	return c, c.validate()
}

func firstOf(values ...string) string {
	i := slices.IndexFunc(values, func(v string) bool { return v != "" })
	if i < 0 {
		return ""
	}
	return values[i]
}

func (c Config) validate() error {
	label := regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)
	pkg := regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	var errs []error
	fault := func(path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...)))
	}
	if !label.MatchString(c.Name) || len(c.Name) > 20 {
		fault("Name", "%q is not a DNS label of at most 20 characters", c.Name)
	}
	if c.Hosts < 1 || c.Hosts > wire.MaxHosts {
		fault("Hosts", "%d is not between 1 and %d", c.Hosts, wire.MaxHosts)
	} else if c.Hosts != len(c.Names) {
		fault("Hosts", "%d, but there are %d Names", c.Hosts, len(c.Names))
	}
	for i, name := range c.Names {
		switch {
		case !label.MatchString(name) || len(name) > 12:
			fault(fmt.Sprintf("Names[%d]", i), "%q is not a DNS label of at most 12 characters", name)
		case name == wire.Observer || name == "keeper":
			fault(fmt.Sprintf("Names[%d]", i), "%q is the lab's own", name)
		case slices.Index(c.Names, name) != i:
			fault(fmt.Sprintf("Names[%d]", i), "%q is there twice", name)
		}
	}
	for i, p := range c.Packages {
		if !pkg.MatchString(p) {
			fault(fmt.Sprintf("Packages[%d]", i), "%q is not the name of a Debian package", p)
		}
	}
	for i, b := range c.Binds {
		if !filepath.IsAbs(b.Source) {
			fault(fmt.Sprintf("Binds[%d].Source", i), "%q is not an absolute path", b.Source)
		}
		if !filepath.IsAbs(b.Target) || strings.ContainsAny(b.Target, `:\`) {
			fault(fmt.Sprintf("Binds[%d].Target", i), `%q is not an absolute path without ":" and "\"`, b.Target)
		}
	}
	for path, dir := range map[string]string{"Dir": c.Dir, "Cache": c.Cache} {
		if !filepath.IsAbs(dir) || len(dir) > maxDir || filepath.Clean(dir) == "/" {
			fault(path, "%q is not an absolute path of at most %d characters below /", dir, maxDir)
		}
	}
	return errors.Join(errs...)
}
