package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal returns a pseudo-terminal: what is written to tty can be read from the other end.
func terminal(t *testing.T) (tty *os.File, screen *bufio.Reader) {
	t.Helper()
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ptmx.Close()) })
	fd := int(ptmx.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tty.Close()) })
	return tty, bufio.NewReader(ptmx)
}

func TestColours(t *testing.T) {
	newShell(t)
	for name, tc := range map[string]struct{ term, noColor, want string }{
		"terminal": {"xterm", "", "\x1b[1mALIVE\x1b[0m"},
		"NO_COLOR": {"xterm", "1", "ALIVE"},
		"dumb":     {"dumb", "", "ALIVE"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TERM", tc.term)
			t.Setenv("NO_COLOR", tc.noColor)
			tty, screen := terminal(t)
			require.Equal(t, exitDone, run(t.Context(), []string{"cluster", "status"}, strings.NewReader(""), tty, tty))
			var lines []string
			for len(lines) < 11 {
				line, err := screen.ReadString('\n')
				require.NoError(t, err)
				lines = append(lines, strings.TrimSuffix(line, "\r\n"))
			}
			require.Contains(t, lines[6], tc.want+"  ")
			coloured := tc.want != "ALIVE"
			require.Equal(t, coloured, strings.Contains(lines[8], "\x1b[31mno\x1b[0m"))
			require.Equal(t, coloured, strings.Contains(strings.Join(lines, ""), "\x1b["))
		})
	}
}

// The bar is drawn over again and taken away at the end.
func TestProgressOnATerminal(t *testing.T) {
	s := newShell(t)
	s.ok("", "topic", "create", "t")
	file := t.TempDir() + "/lines"
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("a line\n", 1000)), 0o600))
	tty, screen := terminal(t)
	require.Equal(t, exitDone, run(t.Context(), []string{"produce", "t", "--file", file}, strings.NewReader(""), tty, tty))
	line, err := screen.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "\r\x1b[K[")
	require.Contains(t, line, "\r\x1b[Kproduced 1000 records")
}
