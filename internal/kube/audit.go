package kube

import (
	_ "embed"
	"path/filepath"

	"github.com/hactl/hactl/internal/layout"
)

// AuditLog is where the API server writes who did what; kube-apiserver rotates
// it itself.
func AuditLog(l layout.Layout) string { return filepath.Join(l.Logs(), "audit.log") }

//go:embed audit-policy.yaml
var auditPolicy []byte
