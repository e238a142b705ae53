package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// Alertmanager is a real Alertmanager.
type Alertmanager struct {
	// Addr is where it listens.
	Addr string
}

// ReceivedAlert is an alert that an Alertmanager has, and has not been told the end of.
type ReceivedAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Receivers   []struct {
		Name string `json:"name"`
	} `json:"receivers"`
}

// StartAlertmanager starts an Alertmanager with this configuration file and waits until it is ready. It ends with the test.
func StartAlertmanager(tb testing.TB, config string) *Alertmanager {
	tb.Helper()
	path := ToolPath(tb, "alertmanager")
	a := &Alertmanager{Addr: FreeAddr(tb)}
	Start(tb, Command{
		Name: "alertmanager", Path: path,
		Args: []string{
			"--config.file=" + config, "--storage.path=" + tb.TempDir(), "--web.listen-address=" + a.Addr,
			"--cluster.listen-address=", "--log.level=warn",
		},
		LogPath: filepath.Join(logDir(tb), "alertmanager.log"),
	})
	Eventually(tb, time.Minute, "Alertmanager is ready", func(ctx context.Context) error {
		return CheckURL(ctx, "http://"+a.Addr+"/-/ready")
	})
	return a
}

// Alerts returns the alerts of a name that have not ended, silenced and inhibited ones too.
func (a *Alertmanager) Alerts(ctx context.Context, name string) ([]ReceivedAlert, error) {
	status, body, err := get(ctx, "http://"+a.Addr+"/api/v2/alerts?filter=alertname%3D"+name)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("alertmanager: %d %s", status, body)
	}
	var alerts []ReceivedAlert
	if err := json.Unmarshal(body, &alerts); err != nil {
		return nil, fmt.Errorf("alertmanager: %w", err)
	}
	return alerts, nil
}
