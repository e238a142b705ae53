//go:build unix && !linux

package dev

import "syscall"

// childAttributes keep a Ctrl-C at the terminal away from the nodes, which are
// stopped in order.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
