package check

import (
	"fmt"
	"os"
)

// snapshotTests are those of a first copy, and of a resync, by a snapshot of several pages.
func snapshotTests() (list []test) {
	for _, resync := range []bool{false, true} {
		add := func(name string, run func(c *copying) error) {
			if name = "a snapshot: " + name; resync {
				name += ", in another history"
			}
			list = append(list, test{name, func(c *copying) error {
				if err := c.beginSnapshot(resync); err != nil {
					return fmt.Errorf("before: %w", err)
				}
				return run(c)
			}})
		}
		add("entities change, go, are erased, and appear between two pages", func(c *copying) error {
			c.onAnswers(6, func(n int) {
				if c.inSnapshot() {
					c.disturb(n)
				}
			})
			return c.equal()
		})
		add("the same, and the reader is killed there", func(c *copying) error {
			for n := 2; n <= 6; n++ {
				if err := c.killed(n); err != nil {
					return err
				}
				c.disturb(n)
			}
			return c.equal()
		})
		pages := 4
		if resync {
			pages++ // one is the refusal
		}
		for answer := 1; answer <= pages; answer++ {
			add(fmt.Sprintf("the history changes after answer %d", answer), func(c *copying) error {
				c.onAnswers(answer, func(n int) {
					if n == answer {
						c.restore(5)
						c.put(1, 13, 14)
					}
				})
				if err := c.equalOrFails(); err != nil {
					return fmt.Errorf("meanwhile: %w", err)
				}
				return c.equal()
			})
		}
		for _, f := range lost {
			add("the source has none any more, and answers with "+f.name, func(c *copying) error {
				if err := c.killed(3); err != nil {
					return err
				}
				c.restore(5)
				c.put(1, 13, 14)
				c.setFault(&f)
				if err := c.equalOrFails(); err != nil {
					return fmt.Errorf("first: %w", err)
				}
				return c.equal()
			})
		}
		add("a cache keeps old pages", func(c *copying) error {
			if err := c.cacheSnapshot(); err != nil {
				return err
			}
			for n := range 7 {
				c.disturb(n)
			}
			return c.equal()
		})
		add("a cache keeps pages of the lost history", func(c *copying) error {
			if err := c.cacheSnapshot(); err != nil {
				return err
			}
			c.restore(5)
			c.put(1, 13, 14)
			if err := c.equalOrFails(); err != nil {
				return fmt.Errorf("meanwhile: %w", err)
			}
			c.mu.Lock()
			c.sealed = nil
			c.mu.Unlock()
			return c.equal()
		})
		add(passing.name, func(c *copying) error {
			c.setFault(&passing)
			return c.equal()
		})
		for _, f := range snapshotFaults {
			add(f.name, func(c *copying) error { return c.outlasts(&f) })
		}
	}
	return list
}

// beginSnapshot makes a source whose snapshot a reader has to read, because it begins, or begins again.
func (c *copying) beginSnapshot(resync bool) error {
	c.short = 3
	c.put(1, 2, 3, 4, 5, 6, 7, 8, 3, 4)
	c.remove(5)
	if resync {
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(7)
	}
	c.put(9, 10, 11, 2)
	c.remove(6)
	return nil
}

// inSnapshot reports whether the newest request was for a snapshot, so that another one follows.
func (c *copying) inSnapshot() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[len(c.asked)-1].URL.Query().Has("snapshot")
}

// disturb changes the source in one of six ways.
func (c *copying) disturb(n int) {
	switch n {
	case 1:
		c.put(1, 2, 10, 10)
	case 2:
		c.put(0, 30, 4)
		c.remove(8)
	case 3:
		c.remove(3)
		c.erase(10)
		c.erased[10] = true
	case 4:
		c.put(5, 31)
		c.remove(31)
		c.erase(1)
		c.erased[1] = true
	case 5:
		c.remove(11)
		c.put(3)
	default:
		c.put(32, 9)
	}
}

// cacheSnapshot puts a cache before the source, which has the pages that another copy has asked for.
func (c *copying) cacheSnapshot() error {
	c.mu.Lock()
	c.sealed, c.stores = map[string][]byte{}, true
	c.mu.Unlock()
	return c.other()
}

// other makes another copy.
func (c *copying) other() error {
	other := *c
	var err error
	if other.dir, err = os.MkdirTemp(c.dir, "other-*"); err != nil {
		return err
	}
	return other.equal()
}
