package webserver

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edison-cars/data-feeds/shared/web"
)

func TestShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShare(web.Bound{All: 10, Client: 6}, 2*time.Second)
		var lost []string
		hold := func(client, name string, n int) (release func()) {
			time.Sleep(time.Millisecond)
			return s.hold(client, n, func() { lost = append(lost, name) })
		}
		want := func(when string, names ...string) {
			t.Helper()
			if !slices.Equal(lost, names) {
				t.Errorf("%s: %v is lost, want %v", when, lost, names)
			}
			lost = nil
		}
		releaseA1 := hold("a", "a1", 1)
		hold("a", "a2", 3)
		hold("a", "a3", 2)
		want("a client has its share")
		hold("a", "a4", 1)
		want("it has more for a moment")
		time.Sleep(3 * time.Second)
		hold("a", "a5", 1)
		want("it has more for long", "a1", "a2")
		releaseA1()
		releaseA1()
		hold("b", "b1", 3)
		time.Sleep(3 * time.Second)
		hold("c", "c1", 3)
		want("all have their share") // 4, 3 and 3
		releaseC2 := hold("c", "c2", 1)
		want("all have too much", "a3")
		releaseC2()
		hold("c", "c3", 3)
		want("a client has the most for a moment", "b1")
		time.Sleep(3 * time.Second)
		hold("d", "d1", 6)
		want("a client has the most for long", "c1", "c3")
		if s.all != 8 || len(s.byClient) != 2 {
			t.Errorf("%d are held by %d clients", s.all, len(s.byClient))
		}
	})
}
