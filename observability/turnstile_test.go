package observability

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// At most so many scrapes are under way; others get their turn, or are refused when it does not come.
func TestTurnstile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		inside := func(by int) {
			mu.Lock()
			defer mu.Unlock()
			now += by
			most = max(most, now)
		}
		h := newTurnstile(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			inside(1)
			defer inside(-1)
			<-time.After(2 * time.Second) // an answer that takes long, or that is read slowly
			w.WriteHeader(http.StatusOK)
		}), 3, 3*time.Second)
		codes := make(chan int, 20)
		for range cap(codes) {
			go func() { // joined by the receives
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
				codes <- w.Code
			}()
		}
		count := make(map[int]int)
		for range cap(codes) {
			count[<-codes]++
		}
		require.Equal(t, map[int]int{http.StatusOK: 6, http.StatusServiceUnavailable: 14}, count)
		require.Equal(t, 3, most)
		require.Empty(t, h.turns)
	})
}
