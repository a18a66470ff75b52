package lease

import (
	"strings"
	"testing"
	"time"
)

func TestDefaultsHold(t *testing.T) {
	for ttl := time.Second; ttl <= 5*time.Minute; ttl += 500 * time.Millisecond {
		c := Config{Holder: "m1", TTL: ttl}
		if err := c.Validate(); err != nil {
			t.Errorf("ttl %v: %v", ttl, err)
		}
	}
	c := Config{}.withDefaults()
	if c.TTL != 3*time.Second || c.RenewEvery != 400*time.Millisecond || c.StopTime != 500*time.Millisecond {
		t.Errorf("defaults %+v", c)
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*Config)
		want string
	}{
		"no holder":            {func(c *Config) { c.Holder = "" }, "holder"},
		"short ttl":            {func(c *Config) { c.TTL = 999 * time.Millisecond }, "at least 1s"},
		"negative ttl":         {func(c *Config) { c.TTL = -time.Second }, "ttl"},
		"ttl under the sum":    {func(c *Config) { c.TTL, c.StopTime, c.RenewEvery = 2*time.Second, time.Second, 400*time.Millisecond }, "cannot hold"},
		"stop time over ttl":   {func(c *Config) { c.StopTime = time.Minute }, "cannot hold"},
		"negative stop time":   {func(c *Config) { c.StopTime = -1 }, "stop time"},
		"slow renewals":        {func(c *Config) { c.RenewEvery = 2 * time.Second }, "cannot hold"},
		"negative renewals":    {func(c *Config) { c.RenewEvery = -1 }, "renew every"},
		"late answers":         {func(c *Config) { c.CallTimeout = time.Hour }, "worth nothing"},
		"negative timeout":     {func(c *Config) { c.CallTimeout = -1 }, "call timeout"},
		"negative lock delay":  {func(c *Config) { c.LockDelay = -1 }, "lock delay"},
		"negative yield":       {func(c *Config) { c.YieldFor = -1 }, "yield"},
		"no skew":              {func(c *Config) { c.MaxSkew = -0.1 }, "max skew"},
		"clocks that run wild": {func(c *Config) { c.MaxSkew = 0.5 }, "max skew"},
	} {
		c := Config{Holder: "m1"}
		tc.edit(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want a word of %q", name, err, tc.want)
		}
	}
	err := Config{TTL: time.Millisecond, LockDelay: -1}.Validate()
	for _, want := range []string{"holder", "ttl", "lock delay"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("all faults at once: %v lacks %s", err, want)
		}
	}
	if _, err := New(Config{Holder: "m1"}); err == nil {
		t.Error("an elector without a lock")
	}
}

func TestBoottime(t *testing.T) {
	var c Boottime
	before := c.Now()
	fired, stop := c.At(before + 20*time.Millisecond)
	defer stop()
	<-fired
	if now := c.Now(); now < before+20*time.Millisecond {
		t.Errorf("fired %v too early", before+20*time.Millisecond-now)
	}
	past, stopPast := c.At(0)
	stopPast()
	<-past
	never, stopNever := c.At(before + time.Hour)
	stopNever()
	stopNever()
	select {
	case <-never:
		t.Error("a stopped timer fired")
	default:
	}
	polled, stopPoll := c.poll(c.Now() + 5*time.Millisecond)
	<-polled
	stopPoll()
	_, stopPoll = c.poll(c.Now() + time.Hour)
	stopPoll()
	stopPoll()
}
