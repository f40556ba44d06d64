package customers

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/trace"
)

// trace returns when an account was made and changed, without saying what it was changed to.
func (s *store) trace(ctx context.Context, id uuid.UUID) (p trace.Part, err error) {
	entries, err := s.log.Versions(ctx, customer.Feed, id, trace.MaxSteps)
	if err != nil {
		return p, err
	}
	var later customer.Customer
	for i, e := range entries { // the newest first
		p.CustomerID = &id
		var c customer.Customer
		text := "account changed"
		switch {
		case e.Deleted && i == 0:
			text = "account erased"
		case e.Deleted: // what it was is erased
			continue
		case e.Superseded: // what it said is not kept
			c = later
		case json.Unmarshal(e.Entity, &c) != nil:
		}
		if !e.Deleted && e.Version == 1 {
			text = "signed up"
		}
		if i > 0 && later.EmailConfirmed && !c.EmailConfirmed {
			p.Steps[len(p.Steps)-1].Text = "e-mail address confirmed"
		}
		later = c
		p.Steps = append(p.Steps, trace.Step{At: e.Updated, Text: text, Path: "/customers/" + id.String()})
	}
	return p, nil
}
