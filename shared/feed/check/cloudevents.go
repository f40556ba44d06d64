package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

const typeCloudEvents = "application/cloudevents-batch+json"

// A cloudEvent is an entry as CloudEvents have it.
type cloudEvent struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Type        string          `json:"type"`
	Source      string          `json:"source"`
	Time        string          `json:"time"`
	Subject     string          `json:"subject"`
	Method      string          `json:"method"`
	ContentType string          `json:"datacontenttype"`
	Data        json.RawMessage `json:"data"`
	Erased      bool            `json:"erased"`
	Superseded  bool            `json:"superseded"`
	Compacted   string          `json:"compacted"`
}

// events asks for a page as CloudEvents.
func (c *checker) events(query string) (events []cloudEvent, a *answer, err error) {
	if a, err = c.get(query, "Accept", typeCloudEvents); err != nil {
		return nil, nil, err
	}
	if a.status == http.StatusNotAcceptable {
		return nil, nil, skipError("the source has no CloudEvents")
	}
	if err := a.want(http.StatusOK); err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(a.body, &events); err != nil || a.mediaType() != typeCloudEvents || events == nil {
		return nil, nil, fmt.Errorf("%s is no batch of CloudEvents, but %s: %w", a.asked, a.mediaType(), err)
	}
	return events, a, nil
}

func (c *checker) cloudEvents() error {
	if err := c.some(1); err != nil {
		return err
	}
	var got []cloudEvent
	for last := "null"; len(got) < min(len(c.walked), walkLimit); {
		batch, a, err := c.events("?limit=200&lastEventId=" + last)
		if err != nil {
			return err
		}
		if len(batch) == 0 {
			return fmt.Errorf("%s is empty, after %d of %d entries", a.asked, len(got), len(c.walked))
		}
		got = append(got, batch...)
		last = batch[len(batch)-1].ID
	}
	for i, e := range got[:min(len(got), len(c.walked))] {
		want := c.walked[i]
		d := want.DataFeed
		if positionOf(e.ID) != d.Position || e.Subject != want.uuid() || e.Time != want.Updated || e.SpecVersion != "1.0" || e.Type == "" || e.Source == "" {
			return fmt.Errorf("event %d is not the entry of position %d: %+v", i+1, d.Position, e)
		}
		if (e.Method == http.MethodDelete) != d.Deleted || e.Erased != d.Erased || string(e.Data) != string(d.Entity) || !d.Deleted && !d.Superseded && e.ContentType != "application/json" {
			return fmt.Errorf("the event of position %d has the method %q, erased %t and %d bytes of data", d.Position, e.Method, e.Erased, len(e.Data))
		}
	}
	for i, e := range got[:min(len(got), len(c.walked))] {
		if e.Superseded != c.walked[i].DataFeed.Superseded || e.Superseded != (e.Compacted != "") || positionOf(e.Compacted) <= positionOf(e.ID) && e.Superseded {
			return fmt.Errorf("the event of position %d is superseded %t, and compacted at %q", positionOf(e.ID), e.Superseded, e.Compacted)
		}
	}
	p, err := c.page(after("0", 200))
	if err != nil {
		return err
	}
	if n := len(p.Items); got[n-1].ID != p.DataFeed.Cursor {
		return fmt.Errorf("the event's id is %s, the cursor after its entry %s", got[n-1].ID, p.DataFeed.Cursor)
	}
	suffix, err := c.get(".cloudevents?limit=1")
	if err == nil && suffix.mediaType() != typeCloudEvents {
		err = fmt.Errorf("%s is %s", suffix.asked, suffix.mediaType())
	}
	return err
}

func (c *checker) lastEventID() error {
	p, err := c.page("?limit=1")
	if err != nil {
		return err
	}
	events, _, err := c.events("?lastEventId=" + p.DataFeed.Cursor)
	if err != nil {
		return err
	}
	if len(events) > 0 && positionOf(events[0].ID) != positionOf(p.DataFeed.Cursor)+1 {
		return fmt.Errorf("event %s follows %s", events[0].ID, p.DataFeed.Cursor)
	}
	gone := fmt.Sprintf("?lastEventId=%d-fedcba987654", max(positionOf(p.DataFeed.Cursor), 1))
	if err := c.status(http.StatusGone, gone, "Accept", typeCloudEvents); err != nil {
		return err
	}
	return errors.Join(
		c.status(http.StatusBadRequest, "?lastEventId=1c6b8c6e-d8d0-4a91-b51c-1f56bd04c758", "Accept", typeCloudEvents),
		c.status(http.StatusBadRequest, "?timeout=soon", "Accept", typeCloudEvents))
}

func (c *checker) timeout() error {
	p, err := c.page("?limit=1")
	if err != nil {
		return err
	}
	const wait = 500 * time.Millisecond
	events, a, err := c.events(fmt.Sprintf("?lastEventId=%s&timeout=%d", p.DataFeed.Cursor, wait.Milliseconds()))
	if err != nil {
		return err
	}
	if len(events) == 0 && a.took < wait || a.took > wait+10*time.Second {
		return fmt.Errorf("with a timeout of %v the answer came after %v", wait, a.took)
	}
	if _, a, err = c.events("?lastEventId=&limit=1"); err != nil {
		return err
	}
	if control := a.header.Get("Cache-Control"); !strings.HasSuffix(control, "no-cache") {
		return fmt.Errorf("%s has Cache-Control %q", a.asked, control)
	}
	return nil
}
