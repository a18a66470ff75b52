// Package lease breaks real podmasters in front of a real etcd, and judges
// whether ever two terms worked at once. Three podmasters campaign for one key;
// the work is this test binary, which writes (token, holder, boot-time) to a log
// of its own every 5 ms and, through the gate, to a sink.
//
// Every podmaster and guard writes down what it asked of the lock and was answered;
// after each fault porcupine judges that history, too.
//
//	go test -tags faults ./test/faults/lease         each fault once
//	HACTL_FAULT_REPEATS=50 go test -timeout 3h …     each fault 50 times, at random phases
//	go test -run 'TestFaults/freeze_podmaster' …     one fault
//
// With -tags lab the same happens on booted systemd hosts (test/hosts; root): units,
// systemd's watchdog, frozen and powerless hosts, cuts in one and both directions,
// slow and full disks; and with clocks that jump or are days apart. HACTL_FAULT_TABLE
// names a file for the rows of RESULTS.md.
package lease
