package contract

import (
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
)

func TestOfWithoutBounds(t *testing.T) {
	t.Parallel()
	panics := func(name string, of func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s: it does not panic", name)
			}
		}()
		of()
	}
	panics("a text without a length", func() {
		Of[struct {
			Name string `json:"name"`
		}]()
	})
	panics("a number without a range", func() {
		Of[struct {
			N int `json:"n"`
		}]()
	})
	panics("elements without a length", func() {
		Of[struct {
			Names []string `json:"names" check:"0..1"`
		}]()
	})
	panics("a range that is none", func() {
		Of[struct {
			N int `json:"n" check:"1..many"`
		}]()
	})
	panics("a type that it does not know", func() {
		Of[struct {
			F float64 `json:"f" check:"0..1"`
		}]()
	})
}

func TestBoolean(t *testing.T) {
	t.Parallel()
	c := Of[struct {
		B bool `json:"b"`
	}]()
	for entity, good := range map[string]bool{
		`{}`: true, `{"b":null}`: true, `{"b":true}`: true, `{"b":false}`: true,
		`{"b":0}`: false, `{"b":"true"}`: false, `{"b":[]}`: false, `{"b":{}}`: false, `{"B":true}`: false, `{"b":tru}`: false, `{"b":true,"b":false}`: false,
	} {
		if err := c.Check(feed.Entry{ID: uuid.Max, Version: 1, Entity: []byte(entity)}); (err == nil) != good {
			t.Errorf("%s: %v", entity, err)
		}
	}
}

func TestOptional(t *testing.T) {
	t.Parallel()
	c := Of[struct {
		N *int `json:"n" check:"1..9"`
	}]()
	for entity, good := range map[string]bool{`{}`: true, `{"n":null}`: true, `{"n":9}`: true, `{"n":10}`: false, `{"N":null}`: false} {
		if err := c.Check(feed.Entry{ID: uuid.Max, Version: 1, Entity: []byte(entity)}); (err == nil) != good {
			t.Errorf("%s: %v", entity, err)
		}
	}
}
