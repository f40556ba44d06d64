package check

import (
	"fmt"
	"net/http"
	"slices"
)

func (c *checker) superseded() error {
	newest, found := map[string]int64{}, false
	for _, i := range c.walked {
		newest[i.ID] = i.DataFeed.Version
	}
	for _, i := range c.walked {
		switch d := i.DataFeed; {
		case !d.Superseded:
			continue
		case d.Entity != nil, d.Deleted, d.Erased:
			return fmt.Errorf("position %d is superseded, and has an entity or is deleted", d.Position)
		case newest[i.ID] == d.Version && c.complete():
			return fmt.Errorf("position %d is superseded, and the newest version of %s", d.Position, i.uuid())
		}
		found = true
	}
	if !found {
		return skipError("no entry is superseded")
	}
	return nil
}

func (c *checker) compacted() error {
	later := map[string]int64{} // the next version of an entity
	found := false
	for _, p := range slices.Backward(c.pages) {
		place := p.DataFeed.Compacted
		for _, i := range slices.Backward(p.Items) {
			d := i.DataFeed
			if d.Superseded && (positionOf(place) <= d.Position || positionOf(place) < later[i.ID]) {
				return fmt.Errorf("position %d is superseded by position %d, and its page is compacted at %q", d.Position, later[i.ID], place)
			}
			later[i.ID], found = d.Position, found || d.Superseded
		}
		if place == "" {
			continue
		}
		if err := c.status(http.StatusOK, after(place, 1)); err != nil {
			return err
		}
	}
	if !found {
		return skipError("no entry is superseded")
	}
	return nil
}
