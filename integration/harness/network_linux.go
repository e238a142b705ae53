package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ownerOf returns which of the processes has the TCP connection from local to remote. All nodes dial from 127.0.0.1, so
// the kernel's tables are all that tells them apart.
func ownerOf(local, remote string, pids map[int]string) (string, error) {
	inode, err := inodeOf(local, remote)
	if err != nil {
		return "", err
	}
	want := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
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

// What sock_diag(7) takes and answers, behind a header of 16 bytes.
const (
	headerBytes   = 16
	requestBytes  = headerBytes + 56
	idAt          = 8  // struct inet_diag_req_v2: id
	inodeAt       = 68 // struct inet_diag_msg: idiag_inode
	responseBytes = headerBytes + inodeAt + 4
	sockDiag      = 20 // SOCK_DIAG_BY_FAMILY
)

// inodeOf asks the kernel for one connection. The table of proc_net_tcp(5) would have to be read as a whole, with thousands
// of connections on a busy machine.
func inodeOf(local, remote string) (uint32, error) {
	l, err := netip.ParseAddrPort(local)
	if err != nil {
		return 0, err
	}
	r, err := netip.ParseAddrPort(remote)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Sendto(fd, diagRequest(l, r), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	if n < responseBytes || binary.NativeEndian.Uint16(answer[4:]) != sockDiag {
		return 0, errors.Join(errNoOwner, fmt.Errorf("sock_diag knows no connection from %s to %s", local, remote))
	}
	return binary.NativeEndian.Uint32(answer[headerBytes+inodeAt:]), nil
}

// diagRequest asks for one IPv4 connection.
func diagRequest(local, remote netip.AddrPort) []byte {
	b := make([]byte, requestBytes)
	binary.NativeEndian.PutUint32(b, requestBytes)
	binary.NativeEndian.PutUint16(b[4:], sockDiag)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	req := b[headerBytes:]
	req[0], req[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], ^uint32(0)) // in any state
	id := req[idAt:]
	binary.BigEndian.PutUint16(id, local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	from, to := local.Addr().Unmap().As4(), remote.Addr().Unmap().As4()
	copy(id[4:], from[:])
	copy(id[20:], to[:])
	binary.NativeEndian.PutUint64(id[40:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}
