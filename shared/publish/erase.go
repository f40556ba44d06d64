package publish

import (
	"context"
	"maps"
)

// erases returns the ids that the transaction erases.
func (p pending) erases() (ids []erasedID) {
	for name, records := range p {
		for i := range records {
			if records[i].erase {
				ids = append(ids, erasedID{feed: name, id: records[i].ID})
			}
		}
	}
	return ids
}

// A listedError means that the ids are on the list already, and so will be erased.
type listedError struct{ error }

func (e listedError) Unwrap() error { return e.error }

// commitErasure runs a change that erases in a transaction of its own: whatever can fail has to fail before the ids are
// on the list.
func (l *Log) commitErasure(ctx context.Context, c *Change) error {
	return l.InTx(ctx, func(tx *Tx) error {
		for _, s := range c.statements {
			if _, err := tx.Exec(ctx, s.sql, s.args...); err != nil {
				return err
			}
		}
		tx.pending = maps.Clone(c.pending)
		return nil
	})
}

const listedSQL = `update feed set listed = $2 where listed = $1 and name = any($3)`

// addToList writes the ids that a transaction erases to the list, and returns the statement that records its length.
func (l *Log) addToList(p pending, u *uncommitted) (statement, error) {
	was, is, err := l.reerasure.list.add(p.erases(), u)
	if err != nil {
		return statement{}, err
	}
	return statement{listedSQL, []any{was.Size(), is.Size(), p.feeds()}}, nil
}
