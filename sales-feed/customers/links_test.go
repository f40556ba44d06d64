package customers

import (
	"crypto/sha256"
	"errors"
	"testing"
)

// A link signs in for half an hour and no longer, whatever the clock showed when it was sent.
func TestLinkTime(t *testing.T) {
	t.Parallel()
	a := open(t)
	_, p := a.json(t, "POST", "/customers", ada, 201)
	l := &links{pool: a.pool}
	for expires, good := range map[string]bool{
		"now() + interval '30 minutes'": true, "now() + interval '1 minute'": true, "now() - interval '1 second'": false,
		"now() + interval '32 minutes'": false, "timestamptz '2100-01-01'": false, "timestamptz 'infinity'": false,
	} {
		hash := sha256.Sum256([]byte(expires))
		if _, err := a.pool.Exec(t.Context(), `insert into sign_in_link select $1, id, email, `+expires+` from customer where id = $2`, hash[:], p.ID); err != nil {
			t.Fatal(err)
		}
		found, findErr := l.find(t.Context(), expires)
		used, _, useErr := l.use(t.Context(), expires)
		if good && (findErr != nil || useErr != nil || found != p.ID || used != p.ID) || !good && (!errors.Is(findErr, errNoLink) || !errors.Is(useErr, errNoLink)) {
			t.Errorf("one that expires at %s: %v, %v", expires, findErr, useErr)
		}
	}
}
