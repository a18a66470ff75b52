// Package workloadtest is the contract of workload.Manager as a test suite, run
// against every supervisor, and the program that its units run.
//
// The program is the test binary itself: TestMain calls Helper first.
//
//	func TestMain(m *testing.M) {
//		if code, ok := workloadtest.Helper(os.Args); ok {
//			os.Exit(code)
//		}
//		…
//	}
package workloadtest
