package harness

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ownerOf returns which of the processes has the TCP connection from local to remote. All nodes dial from 127.0.0.1, so
// the kernel's tables are all that tells them apart.
func ownerOf(local, remote string, pids map[int]string) (string, error) {
	inode, err := inodeOf(local, remote)
	if err != nil {
		return "", err
	}
	want := "socket:[" + inode + "]"
	for pid, id := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		files, err := os.ReadDir(dir)
		if err != nil {
			continue // the process has ended
		}
		for _, f := range files {
			if to, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && to == want {
				return id, nil
			}
		}
	}
	return "", errNoOwner
}

// inodeOf looks a connection up in the table of proc_net_tcp(5).
func inodeOf(local, remote string) (string, error) {
	l, err := hexAddr(local)
	if err != nil {
		return "", err
	}
	r, err := hexAddr(remote)
	if err != nil {
		return "", err
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return "", err
	}
	const localAt, remoteAt, inodeAt = 1, 2, 9
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > inodeAt && f[localAt] == l && f[remoteAt] == r {
			return f[inodeAt], nil
		}
	}
	return "", errNoOwner
}

// hexAddr writes an IPv4 address and port as that table does: the address in the machine's order of bytes, which is taken
// to be little endian.
func hexAddr(addr string) (string, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "", err
	}
	ip := ap.Addr().As4()
	slices.Reverse(ip[:])
	return strings.ToUpper(hex.EncodeToString(ip[:])) + fmt.Sprintf(":%04X", ap.Port()), nil
}
