package dev

import "syscall"

// childAttributes keep a Ctrl-C at the terminal away from the nodes, which are
// stopped in order, and stop them when this process is killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
