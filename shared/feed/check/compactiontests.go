package check

import (
	"fmt"
	"net/http"
)

// compactionTests are those of a source that compacts its feed.
var compactionTests = []test{
	{"compaction: it goes on while the feed is read", func(c *copying) error {
		c.put(numbers(4000, 1500)...)
		c.remove(7)
		c.onAnswers(3, func(n int) {
			c.put(numbers(500, 700)...)
			c.compact()
			c.put(1600 + n)
		})
		return inTurn(c.equal, func() error { c.put(7, 9); return c.equal() })
	}},
	{"compaction: pages have nothing but superseded entries", func(c *copying) error {
		c.replays = true
		for range 3 {
			c.put(numbers(1100, 1100)...)
		}
		c.remove(3)
		c.put(3, 4)
		c.compact()
		for n := range 3 {
			if err := c.killed(n + 1); err != nil {
				return err
			}
		}
		return c.equal()
	}},
	{"compaction: a superseded entry is no deletion", func(c *copying) error {
		c.put(1, 2, 3)
		if err := c.equal(); err != nil {
			return err
		}
		c.put(2, 4)
		c.mu.Lock()
		c.entries[3].superseded, c.compacted = true, c.cursor(len(c.entries)) // though nothing newer comes
		c.mu.Unlock()
		rows, err := c.run()
		if err == nil && rows[idOf(2)].version != 1 {
			err = fmt.Errorf("the copy has version %d of %s, of which a superseded version came, but no newer one", rows[idOf(2)].version, idOf(2))
		}
		return err
	}},
	{"compaction: a restore loses what superseded an entry that the copy skipped", func(c *copying) error {
		return c.loses(func() { c.restore(2100) })
	}},
	{"compaction: a restore loses what superseded an entry that the copy skipped, and the feed is longer then", func(c *copying) error {
		return c.loses(func() {
			c.restore(2100)
			c.put(numbers(900, 900)...)
		})
	}},
	{"compaction: the same, and the new history is compacted", func(c *copying) error {
		return c.loses(func() {
			c.restore(2100)
			c.put(numbers(2200, 2200)[1200:]...)
			c.compact()
		})
	}},
	{"compaction: the same, and the reader is killed before", func(c *copying) error {
		c.history()
		if err := c.killed(3); err != nil {
			return err
		}
		c.restore(2100)
		c.put(numbers(900, 900)...)
		return c.equal()
	}},
	{"compaction: the same, behind a shared cache", func(c *copying) error {
		c.sealed = map[string][]byte{}
		c.history()
		c.put(numbers(10, 10)...)
		if err := c.other(); err != nil {
			return err
		}
		c.onAnswers(2, func(n int) {
			if n == 2 {
				c.restore(2100)
				c.put(numbers(900, 900)...)
			}
		})
		return c.equal()
	}},
	{"compaction: a restore loses what superseded an entry of a snapshot", func(c *copying) error {
		c.short = 3
		c.put(numbers(12, 12)...)
		c.onAnswers(5, func(n int) {
			switch n {
			case 1:
				c.put(numbers(12, 12)...)
				c.compact()
			case 4: // the last page of the snapshot
				c.restore(12)
			}
		})
		if err := c.equalOrFails(); err != nil {
			return fmt.Errorf("meanwhile: %w", err)
		}
		return c.equal()
	}},
	{"compaction: a cache has the end of the feed from before", func(c *copying) error {
		c.history()
		c.restore(2100)
		head := c.cursor(2000)
		r, err := http.NewRequestWithContext(c.ctx, http.MethodGet, c.server.URL+"/feeds/entities", nil)
		if err != nil {
			return err
		}
		c.mu.Lock()
		old := c.pageOf(r, 2000, 2100, 1000)
		c.mu.Unlock()
		c.put(numbers(300, 300)...)
		c.compact()
		c.put(1)
		c.setFault(&fault{"", 0, func(s *source, w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("after") == head {
				s.write(w, r, old)
				return
			}
			s.honest(w, r)
		}})
		if rows, err := c.run(); err == nil && len(rows) < len(c.truth(nil)) {
			return fmt.Errorf("the copy has %d entities of %d", len(rows), len(c.truth(nil)))
		}
		c.setFault(nil)
		return c.equal()
	}},
}

// history makes a source of 2500 entries without snapshots, of which the last 300 have superseded the first ones.
func (c *copying) history() {
	c.replays = true
	c.put(numbers(2200, 2200)...)
	c.put(numbers(300, 2200)...)
	c.compact()
}

// loses calls restore when at least the first page is read, which may come after the answer that there are no snapshots.
func (c *copying) loses(restore func()) error {
	c.history()
	c.onAnswers(2, func(n int) {
		if n == 2 {
			restore()
		}
	})
	if err := c.equalOrFails(); err != nil {
		return fmt.Errorf("meanwhile: %w", err)
	}
	return c.equal()
}
