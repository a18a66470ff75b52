package collect

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hactl/hactl/internal/etcdcluster/etcdtest"
	"github.com/hactl/hactl/internal/layout"
	"github.com/hactl/hactl/internal/status"
	"github.com/hactl/hactl/internal/testwait"
)

// TestEtcd is the life of a real cluster as a Collector sees it: well, with a
// learner, with an alarm, with a member frozen, without quorum, gone.
func TestEtcd(t *testing.T) {
	c := etcdtest.StartProcesses(t, 3, etcdtest.Options{TLS: true, Quota: 1 << 30})
	var addrs []string
	for _, m := range c.Members {
		addrs = append(addrs, m.Address)
	}
	col, err := New(Config{Cluster: cluster(addrs...), EtcdTLS: c.TLS(), Node: dead})
	if err != nil {
		t.Fatal(err)
	}
	// see waits until the cluster is seen as f wants it.
	see := func(what string, f func(e status.Etcd) error) {
		t.Helper()
		testwait.For(t, what, time.Minute, func() error {
			e, _ := col.etcd(t.Context())
			if err := f(e); err != nil {
				return fmt.Errorf("%w: %+v", err, e)
			}
			return nil
		})
	}
	leaders := func(e status.Etcd) (n int) {
		for _, m := range e.Members {
			if m.Role == status.RoleLeader {
				n++
			}
		}
		return n
	}

	see("a healthy cluster", func(e status.Etcd) error {
		switch {
		case e.Quorum != status.Yes || e.Membership != status.Yes || e.Leader == "" || e.Term == 0 || e.Quota != 1<<30:
			return fmt.Errorf("the cluster")
		case len(e.Members) != 3 || leaders(e) != 1:
			return fmt.Errorf("the members")
		}
		for i, m := range e.Members {
			if m.Name != c.Members[i].Name || !m.Reachable || m.Error != "" || m.Leader != e.Leader || m.DBSize == 0 || m.DBInUse == 0 ||
				m.Index == 0 || m.Applied == 0 || m.Version == "" || m.Latency <= 0 || len(m.Alarms) > 0 {
				return fmt.Errorf("member %s", m.Name)
			}
		}
		return nil
	})

	client := c.Client()
	var learner *clientv3.MemberAddResponse
	testwait.For(t, "the learner to be accepted", time.Minute, func() (err error) {
		learner, err = client.MemberAddAsLearner(t.Context(), []string{"https://127.9.9.9:2380"})
		return err // refused while the members' connections are young
	})
	see("a learner that was never started", func(e status.Etcd) error {
		last := e.Members[len(e.Members)-1]
		if len(e.Members) != 4 || last.Role != status.RoleLearner || last.Name != "" || last.ID != fmt.Sprintf("%x", learner.Member.ID) || last.Reachable {
			return fmt.Errorf("the learner")
		}
		return nil
	})
	if _, err := client.MemberRemove(t.Context(), learner.Member.ID); err != nil {
		t.Fatal(err)
	}

	raise(t, client, c.Members[1], etcdserverpb.AlarmRequest_ACTIVATE)
	see("an alarm", func(e status.Etcd) error {
		if !slices.Equal(e.Members[1].Alarms, []string{"NOSPACE"}) || len(e.Members[0].Alarms) > 0 {
			return fmt.Errorf("the alarms")
		}
		return nil
	})
	raise(t, client, c.Members[1], etcdserverpb.AlarmRequest_DEACTIVATE)

	leader := c.Leader()
	leader.Pause()
	see("a frozen leader", func(e status.Etcd) error {
		for _, m := range e.Members {
			switch {
			case m.Name == leader.Name && (m.Reachable || m.Error != "no answer in time"):
				return fmt.Errorf("the frozen member")
			case m.Name != leader.Name && (!m.Reachable || m.Leader == leader.Name || m.Leader == ""):
				return fmt.Errorf("member %s", m.Name)
			}
		}
		if e.Quorum != status.Yes || e.Leader == leader.Name || leaders(e) != 1 {
			return fmt.Errorf("the cluster")
		}
		return nil
	})
	leader.Resume()

	c.Members[0].Kill()
	c.Members[1].Kill()
	see("no quorum", func(e status.Etcd) error {
		last := e.Members[2]
		switch {
		case e.Quorum != status.No || e.Why != "m3 sees no leader" || e.Membership != status.No || e.Leader != "" || leaders(e) != 0:
			return fmt.Errorf("the cluster")
		case len(e.Members) != 3 || !last.Reachable || last.Leader != "" || last.Role != status.RoleVoter:
			return fmt.Errorf("the last member")
		case e.Members[0].Reachable || e.Members[0].Error != "connection refused" || e.Members[0].Name != "m1":
			return fmt.Errorf("the killed ones")
		}
		return nil
	})
	c.Members[2].Kill()
	see("nothing", func(e status.Etcd) error {
		if e.Quorum != status.No || e.Why != "no member answers" || len(e.Members) != 3 || e.Members[2].Reachable {
			return fmt.Errorf("the cluster")
		}
		return nil
	})
}

func raise(t *testing.T, client *clientv3.Client, m *etcdtest.Member, what etcdserverpb.AlarmRequest_AlarmAction) {
	t.Helper()
	st, err := client.Status(t.Context(), m.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	_, err = etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(), &etcdserverpb.AlarmRequest{
		Action: what, MemberID: st.Header.MemberId, Alarm: etcdserverpb.AlarmType_NOSPACE,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEtcdWithoutKeys(t *testing.T) {
	col, err := New(Config{Cluster: cluster("127.0.0.1"), Layout: layout.Layout{Root: t.TempDir()}, Node: dead})
	if err != nil {
		t.Fatal(err)
	}
	e, singletons := col.etcd(t.Context())
	if e.Quorum != status.Unclear || e.Membership != status.Unclear || !strings.Contains(e.Why, "no such file") || len(e.Members) != 1 {
		t.Errorf("%+v", e)
	}
	for _, s := range singletons {
		if s.Known != "" || s.Holder != "" {
			t.Errorf("%+v", s)
		}
	}
}
