package check

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
)

// A test is one of a reader.
type test struct {
	name string
	run  func(c *copying) error
}

// tests are those of an honest source, whose reader is stopped, and whose history changes.
var tests = []test{
	{"an empty feed, and its first entries", func(c *copying) error {
		return inTurn(c.equal, func() error { c.put(1, 2); return c.equal() })
	}},
	{"many pages", func(c *copying) error {
		c.put(numbers(4500, 2500)...)
		return c.equal()
	}},
	{"many entities, which change while they are read", func(c *copying) error {
		c.put(numbers(4000, 3500)...)
		c.remove(7)
		asked := 0
		c.onAnswers(3, func(int) { // there is at least one page to come
			for n := range 5 {
				asked++
				c.add(entry{entity: asked * 131 % 3600, body: fmt.Sprintf(`{"asked": %d}`, asked), deleted: n == 4})
			}
		})
		return c.equal()
	}},
	{"a source without snapshots", func(c *copying) error {
		c.replays = true
		c.put(numbers(2500, 700)...)
		c.remove(7)
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(700)
		c.put(8, 9, 701)
		return c.equal()
	}},
	{"a view, which entities leave and come back to", func(c *copying) error {
		c.path = "/feeds/entities/views/part"
		c.put(numbers(1200, 400)...)
		for range 2 {
			if err := c.equal(); err != nil {
				return err
			}
			c.remove(7)
			c.remove(401) // which was never there
			c.put(8, 9)
			if err := c.equal(); err != nil {
				return err
			}
			c.compact()
			c.put(7, 402)
		}
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(1000)
		c.put(7)
		if err := c.equal(); err != nil {
			return err
		}
		for _, r := range c.requests() {
			if r.URL.Path != c.path {
				return fmt.Errorf("the reader asks for %s, which is outside of the view", r.URL.Path)
			}
		}
		return nil
	}},
	{"pages that are too large", func(c *copying) error {
		c.put(numbers(1500, 700)...)
		c.most = 130
		if err := c.equal(); err != nil {
			return err
		}
		c.put(numbers(300, 400)...)
		return c.equal()
	}},
	{"it is killed while it reads a snapshot", func(c *copying) error {
		c.put(numbers(4000, 3500)...)
		for range 3 {
			if err := c.killed(1 + rand.IntN(4)); err != nil {
				return err
			}
			c.remove(rand.IntN(3500))
		}
		return c.equal()
	}},
	{"new versions, deletions and returns", func(c *copying) error {
		c.put(numbers(50, 20)...)
		for n := range 10 {
			c.remove(n)
		}
		if err := c.equal(); err != nil {
			return err
		}
		c.put(3, 4, 30)
		c.remove(15)
		return c.equal()
	}},
	{"a later run asks for what is new, and with the stored ETag if nothing is", func(c *copying) error {
		c.put(numbers(30, 30)...)
		if err := inTurn(c.equal, c.equal); err != nil {
			return err
		}
		c.requests()
		if err := c.equal(); err != nil {
			return err
		}
		asked := c.requests()
		if len(asked) != 1 || positionOf(asked[0].URL.Query().Get("after")) != 30 {
			return fmt.Errorf("the third run asked %d times, first for %s", len(asked), asked[0].URL)
		}
		if asked[0].Header.Get("If-None-Match") == "" {
			return errors.New("the third run asked without If-None-Match")
		}
		return nil
	}},
	{"it is killed while it copies", func(c *copying) error {
		c.put(numbers(2500, 700)...)
		for range 5 {
			if err := c.killed(1 + rand.IntN(3)); err != nil {
				return err
			}
		}
		return c.equal()
	}},
	{"another history, shorter and with other entries", func(c *copying) error {
		c.put(numbers(300, 100)...)
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(120)
		c.put(200, 5, 6)
		return inTurn(c.equal, func() error { c.put(7); return c.equal() })
	}},
	{"another history, as long as the last one", func(c *copying) error {
		c.put(1, 2, 3, 4)
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(2)
		c.put(4, 5)
		return c.equal()
	}},
	{"an empty history", func(c *copying) error {
		c.put(1, 2, 3, 4)
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(0)
		return inTurn(c.equal, func() error { c.put(2); return c.equal() })
	}},
	{"another history behind a shared cache", func(c *copying) error {
		c.sealed, c.replays = map[string][]byte{}, true
		c.put(numbers(3500, 900)...)
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(500)
		c.put(numbers(2800, 1100)...)
		return c.equal()
	}},
	{"a snapshot of another history, whose head a cache has a page after", func(c *copying) error {
		c.sealed, c.replays = map[string][]byte{}, true
		c.put(numbers(3500, 900)...)
		if err := c.equal(); err != nil {
			return err
		}
		c.replays = false
		c.restore(1000)
		return c.equal()
	}},
	{"another history, and it is killed while it reads that", func(c *copying) error {
		c.put(numbers(2500, 700)...)
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(900)
		c.put(numbers(1500, 1000)...)
		for range 3 {
			if err := c.killed(2 + rand.IntN(2)); err != nil {
				return err
			}
		}
		return c.equal()
	}},
	{"another history, and then another one while it reads that", func(c *copying) error {
		c.put(numbers(2500, 700)...)
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(900)
		c.put(numbers(1500, 1000)...)
		if err := c.killed(3); err != nil {
			return err
		}
		c.restore(700)
		c.put(numbers(1200, 1100)...)
		return c.equal()
	}},
	{"an erased entity, which is gone", func(c *copying) error {
		c.put(numbers(40, 20)...)
		if err := c.equal(); err != nil {
			return err
		}
		c.erase(3)
		c.erased[3] = true
		return c.equal()
	}},
	{"an erased entity stays erased, whatever a restored source says", func(c *copying) error {
		c.put(numbers(40, 20)...)
		c.erase(3)
		c.erased[3] = true
		if err := c.equal(); err != nil {
			return err
		}
		c.restore(0)
		c.put(numbers(30, 20)...)
		return inTurn(c.equal, func() error { c.put(3); return c.equal() })
	}},
}

// numbers returns n numbers below most, so that some come again.
func numbers(n, most int) (some []int) {
	for i := range n {
		some = append(some, i*7919%most)
	}
	return some
}

func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// onAnswers calls do with each of the next answers, up to the n-th, before the reader gets the end of it.
func (c *copying) onAnswers(n int, do func(answer int)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	answers := 0
	c.onAnswer = func() {
		if answers++; answers <= n {
			do(answers)
		}
	}
}

// killed runs the command and kills it when it has asked so many times, or lets it end before.
func (c *copying) killed(times int) error {
	ctx, cancel := context.WithTimeout(c.ctx, runLimit)
	defer cancel()
	cmd, _, _ := c.start(ctx)
	c.onAnswers(times, func(n int) {
		if n == times {
			_ = cmd.Process.Kill()
		}
	})
	defer c.onAnswers(0, nil)
	c.mu.Lock()
	err := cmd.Start() // before the first request is answered
	c.mu.Unlock()
	if err != nil {
		return err
	}
	_ = cmd.Wait()
	return context.Cause(ctx)
}
