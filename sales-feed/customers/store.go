package customers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/edison-cars/data-feeds/sales-feed/buyer"
	"github.com/edison-cars/data-feeds/sales-feed/source"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/feed"
	"github.com/edison-cars/data-feeds/shared/publish"
	"github.com/edison-cars/data-feeds/shared/web"
)

// store keeps the customers. Each change of a customer is an entry of the customers feed.
type store struct {
	pool *pgxpool.Pool
	log  *publish.Log
}

// signUp stores a new customer, once for each idempotency key ("" is none). The customer gets the id of the visitor, whose
// orders carry it, unless that is Nil or has been used meanwhile.
func (s *store) signUp(ctx context.Context, a account, visitor uuid.UUID, key string) (*customer.Customer, error) {
	a.normalize()
	first := false
	p, err := source.Once(ctx, s.pool, s.log, key, a, func(hash []byte) (*customer.Customer, error) {
		first = true
		if err := a.check(); err != nil {
			return nil, err
		}
		if visitor != uuid.Nil {
			if p, err := s.insert(ctx, a, visitor, key, hash); !errors.Is(err, publish.ErrGuard) {
				return p, err
			}
		}
		id, err := uuid.NewV7()
		if err != nil {
			return nil, err
		}
		return s.insert(ctx, a, id, key, hash)
	})
	if err != nil || first {
		return p, err
	}
	// If the account was deleted, a restored dump has brought the key back, and the request is a new one.
	if _, err = s.get(ctx, p.ID); !errors.Is(err, errDeleted) {
		return p, err
	}
	if _, err = s.pool.Exec(ctx, `delete from idempotency_key where key = $1 and customer_id = $2`, key, p.ID); err != nil {
		return nil, fmt.Errorf("forget the answer for a deleted account: %w", err)
	}
	return s.signUp(ctx, a, visitor, key)
}

// insert stores a new customer. It returns ErrGuard if the id has or had an account.
func (s *store) insert(ctx context.Context, a account, id uuid.UUID, key string, hash []byte) (*customer.Customer, error) {
	now := source.Now()
	p := &customer.Customer{ID: id, Version: 1, Name: a.Name, Email: a.Email, Address: a.Address, CreatedAt: feed.TimeOf(now), UpdatedAt: feed.TimeOf(now)}
	entry, err := entryOf(p)
	if err != nil {
		return nil, err
	}
	change := publish.NewChange()
	change.Exec(`with signed_up as (
		insert into customer (id, version, name, email, street, postal_code, city, country, created_at, updated_at)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict (id) do nothing returning 1
		) select feed_guard(count(*) = 1 and not exists (select from feed_entry where feed = $11 and entity_id = $1)) from signed_up`,
		p.ID, p.Version, p.Name, p.Email, p.Address.Street, p.Address.PostalCode, p.Address.City, p.Address.Country, p.CreatedAt.Time, p.UpdatedAt.Time, customer.Feed)
	if key != "" {
		change.Exec(`insert into idempotency_key (key, request_hash, answer, customer_id, created_at) values ($1, $2, $3, $4, greatest(now(), $5))`,
			key, hash, entry.Payload, id, source.SteadyTime())
	}
	change.Append(customer.Feed, entry)
	return p, s.commit(ctx, change, id, "sign up twice", key != "")
}

// unused reports whether an id never had an account, also by the list of erased ids.
func (s *store) unused(ctx context.Context, id uuid.UUID) (unused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, source.ReadTimeout)
	defer cancel()
	err = s.log.View(ctx, customer.Feed, func(tx pgx.Tx) ([]uuid.UUID, error) {
		_, err := read(ctx, tx, id)
		unused = errors.Is(err, errNoCustomer)
		if unused || errors.Is(err, errDeleted) {
			err = nil
		}
		return []uuid.UUID{id}, err // so that an id of the list is refused though nothing else of it is here
	})
	if errors.Is(err, publish.ErrUnapplied) {
		return false, nil
	}
	return unused, err
}

// change changes the name, e-mail or address. ifMatch (nil means none) are the If-Match fields: one of their entity
// tags must match the current customer. If the customer already equals a, nothing is written. A new e-mail address is
// unconfirmed.
func (s *store) change(ctx context.Context, by buyer.Buyer, a account, ifMatch []string) (*customer.Customer, error) {
	a.normalize()
	if err := a.check(); err != nil {
		return nil, err
	}
	return s.update(ctx, by.Customer, ifMatch, func(p *customer.Customer) error {
		if err := s.good(ctx, by); err != nil {
			return err
		}
		p.EmailConfirmed = p.EmailConfirmed && a.Email == p.Email
		p.Name, p.Email, p.Address = a.Name, a.Email, a.Address
		return nil
	})
}

// good returns [buyer.ErrEnded] if the credential has ended. If it had not when a version was read, a change based on
// that version commits before the confirmation that ends it.
func (s *store) good(ctx context.Context, by buyer.Buyer) error {
	since, err := buyer.Since(ctx, s.pool, by.Customer)
	if err == nil && by.Since < since {
		err = buyer.ErrEnded
	}
	return err
}

// confirm uses a link: it confirms the address that the link was sent to, and ends all earlier credentials, in one
// transaction. first is false if the address was confirmed before.
func (s *store) confirm(ctx context.Context, l *links, secret string) (p *customer.Customer, since int64, first bool, err error) {
	id, _, err := l.find(ctx, secret)
	if err != nil {
		return nil, 0, false, err
	}
	p, err = s.update(ctx, id, nil, func(p *customer.Customer) error {
		_, email, err := l.find(ctx, secret) // again, since another request may have used it
		if err == nil && p.Email != email {
			err = errNoLink
		}
		if err == nil {
			since, err = buyer.Since(ctx, s.pool, id)
		}
		if first = !p.EmailConfirmed; err != nil || !first {
			if err == nil {
				err = l.use(ctx, secret)
			}
			return err
		}
		since = max(source.Now().UnixMicro(), since+1)
		p.EmailConfirmed = true
		return nil
	}, func(change *publish.Change) {
		l.useBy(change, secret)
		change.Exec(`insert into buyer_since (customer_id, since) values ($1, $2) on conflict (customer_id) do update set since = excluded.since`, id, since)
	})
	return p, since, first, err
}

// update publishes the customer that edit returns, unless it is unchanged, and adds the others' statements to the same
// transaction. ifMatch is as for change.
func (s *store) update(
	ctx context.Context, id uuid.UUID, ifMatch []string, edit func(*customer.Customer) error, others ...func(*publish.Change),
) (*customer.Customer, error) {
	for {
		p, err := s.match(ctx, id, ifMatch)
		if err != nil {
			return p, err
		}
		before := *p
		if err := edit(p); err != nil || *p == before {
			return p, err
		}
		p.Version++
		p.UpdatedAt = feed.TimeOf(source.Later(source.Now(), p.UpdatedAt.Time))
		entry, err := entryOf(p)
		if err != nil {
			return nil, err
		}
		change := publish.NewChange()
		change.Exec(`with changed as (
			update customer set version = $2, name = $3, email = $4, street = $5, postal_code = $6, city = $7, country = $8, updated_at = $9, email_confirmed = $10
			 where id = $1 and version = $2 - 1 returning 1
			) select feed_guard(count(*) = 1) from changed`,
			p.ID, p.Version, p.Name, p.Email, p.Address.Street, p.Address.PostalCode, p.Address.City, p.Address.Country, p.UpdatedAt.Time, p.EmailConfirmed)
		for _, add := range others {
			add(change)
		}
		change.Append(customer.Feed, entry)
		if err := s.commit(ctx, change, id, "", false); !errors.Is(err, publish.ErrGuard) { // changed in the meantime: look again
			return p, err
		}
	}
}

// delete deletes the customer of a credential and all of its data, here and on the feed. ifMatch is as for change.
func (s *store) delete(ctx context.Context, by buyer.Buyer, ifMatch []string) error {
	for id := by.Customer; ; {
		p, err := s.match(ctx, id, ifMatch)
		if err == nil {
			err = s.good(ctx, by)
		}
		if err != nil {
			return err
		}
		change := publish.NewChange()
		change.Exec(`with deleted as (
			delete from customer where id = $1 and version = $2 returning 1
			) select feed_guard(count(*) = 1) from deleted`, id, p.Version)
		change.Exec(deleteAccounts, []uuid.UUID{id})
		change.Erase(customer.Feed, id, p.Version+1, source.Later(source.Now(), p.UpdatedAt.Time))
		if err := s.commit(ctx, change, id, "", false); !errors.Is(err, publish.ErrGuard) {
			return err
		}
	}
}

func (s *store) commit(ctx context.Context, change *publish.Change, id uuid.UUID, twice string, keyed bool) error {
	switch err := s.log.Commit(ctx, change); {
	case errors.Is(err, publish.ErrUnknown):
		return source.UnknownOutcome("/customers/"+id.String(), twice, keyed)
	case err != nil:
		return errNotErased(fmt.Errorf("write customer %s: %w", id, err))
	}
	return nil
}

func (s *store) match(ctx context.Context, id uuid.UUID, ifMatch []string) (*customer.Customer, error) {
	p, err := s.get(ctx, id)
	if err == nil && ifMatch != nil && !web.MatchesETag(ifMatch, source.ETag(p.Version), true) { // only a proxy weakens it, and it still names the version
		return nil, web.Errorf(http.StatusPreconditionFailed, "The account has changed: it is at version %d. Nothing was saved.", p.Version)
	}
	return p, err
}

var (
	errNoCustomer = web.Errorf(http.StatusNotFound, "There is no such account.")
	errDeleted    = &web.Problem{
		Status: http.StatusGone, Title: "This account is deleted",
		Detail: "Its data is erased here, and the customers feed tells every copy to erase it.",
	}
)

// get returns a customer, or a problem if there is none or the account is deleted.
func (s *store) get(ctx context.Context, id uuid.UUID) (*customer.Customer, error) {
	ctx, cancel := context.WithTimeout(ctx, source.ReadTimeout)
	defer cancel()
	var p *customer.Customer
	err := s.log.View(ctx, customer.Feed, func(tx pgx.Tx) (found []uuid.UUID, err error) {
		p, err = read(ctx, tx, id)
		if p != nil {
			found = append(found, id)
		}
		return found, err
	})
	if err == nil || errors.Is(err, errDeleted) {
		err = cmp.Or(s.log.Confirm(ctx), err)
	}
	return p, err
}

// list returns the listing's page of the accounts, newest first.
func (s *store) list(ctx context.Context, l *web.Listing) (page web.List[*customer.Customer], err error) {
	l.Find("customer", "id", []string{"id"})
	end, args := l.SQL("created_at", "id")
	ctx, cancel := context.WithTimeout(ctx, source.ReadTimeout)
	defer cancel()
	var found []*customer.Customer
	err = s.log.View(ctx, customer.Feed, func(tx pgx.Tx) (ids []uuid.UUID, err error) {
		rows, _ := tx.Query(ctx, selectCustomer+end, args...)
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*customer.Customer, error) { return scan(row) })
		for _, p := range found {
			ids = append(ids, p.ID)
		}
		return ids, err
	})
	if err != nil {
		return page, err
	}
	page = web.NewList(l, found, func(p *customer.Customer) []any { return []any{p.CreatedAt.Time, p.ID} })
	return page, s.log.Confirm(ctx)
}

const selectCustomer = `select id, version, name, email, street, postal_code, city, country, email_confirmed, created_at, updated_at from customer`

func scan(row pgx.Row) (*customer.Customer, error) {
	p := new(customer.Customer)
	err := row.Scan(
		&p.ID, &p.Version, &p.Name, &p.Email, &p.Address.Street, &p.Address.PostalCode, &p.Address.City, &p.Address.Country, &p.EmailConfirmed, &p.CreatedAt.Time, &p.UpdatedAt.Time)
	p.CreatedAt, p.UpdatedAt = feed.TimeOf(p.CreatedAt.Time), feed.TimeOf(p.UpdatedAt.Time)
	return p, err
}

func read(ctx context.Context, tx pgx.Tx, id uuid.UUID) (*customer.Customer, error) {
	p, err := scan(tx.QueryRow(ctx, selectCustomer+` where id = $1`, id))
	if !errors.Is(err, pgx.ErrNoRows) {
		return p, err
	}
	var deleted bool
	err = tx.QueryRow(ctx, `select exists (select from feed_entry where feed = $1 and entity_id = $2)`, customer.Feed, id).Scan(&deleted)
	if err != nil {
		return nil, fmt.Errorf("look for a deleted account: %w", err)
	}
	if deleted {
		return nil, errDeleted
	}
	return nil, errNoCustomer
}

func entryOf(p *customer.Customer) (publish.Entry, error) {
	payload, err := json.Marshal(p)
	return publish.Entry{ID: p.ID, Version: p.Version, Updated: p.UpdatedAt.Time, Payload: payload}, err
}
