package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHealthCommand(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	var status int
	var body string
	hangs := false
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hangs {
			<-r.Context().Done()
			return
		}
		if r.Method != http.MethodGet || r.URL.Path != "/ready" {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer node.Close()
	addr := node.Listener.Addr().String()

	status, body = http.StatusOK, `{"status":"ready"}`
	require.Equal(t, result{exitDone, "ready\n", ""}, runWith(t.Context(), "", "health", "--http-addr", addr))
	status, body = http.StatusServiceUnavailable, `{"status":"not_ready","reason":"the node is starting"}`
	require.Equal(t, result{exitFailed, "", "streamhouse: " + addr + " is not ready: the node is starting\n"},
		runWith(t.Context(), "", "health", "--http-addr", addr))
	status, body = http.StatusNotFound, "no node"
	require.Equal(t, result{exitFailed, "", "streamhouse: " + addr + " is not ready: status 404 Not Found\n"},
		runWith(t.Context(), "", "health", "--http-addr", addr))
	hangs = true
	r := runWith(t.Context(), "", "health", "--http-addr", addr, "--timeout", "50ms")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, addr+" does not answer: ")
	node.Close()
	r = runWith(t.Context(), "", "health", "--http-addr", addr)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.stderr, addr+" does not answer: ")
	for _, wrong := range [][]string{{"--timeout", "0s"}, {"--http-addr", "a b"}, {"here"}} {
		require.NotEqual(t, exitDone, runWith(t.Context(), "", append([]string{"health"}, wrong...)...).code)
	}
}
