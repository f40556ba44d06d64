package contract

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/feed"
)

func TestPartOf(t *testing.T) {
	t.Parallel()
	type line struct {
		Model    string   `json:"model" check:"1..9"`
		Options  []string `json:"options" check:"0..2" each:"1..9"`
		Quantity int      `json:"quantity" check:"1..5"`
	}
	type whole struct {
		ID       uuid.UUID  `json:"id"`
		Version  int64      `json:"version" check:"1.."`
		Status   string     `json:"status" check:"open|closed"`
		Currency string     `json:"currency" check:"3..3"`
		Lines    []line     `json:"lines" check:"1..2"`
		EndedAt  *feed.Time `json:"ended_at"`
	}
	part := PartOf[struct {
		Status string `json:"status"`
		Lines  []struct {
			Model   string   `json:"model"`
			Options []string `json:"options"`
		} `json:"lines"`
		EndedAt *feed.Time `json:"ended_at"`
		Color   string     `json:"color"`
	}](Of[whole]())
	if want := []string{"id", "version", "status", "lines[].model", "lines[].options", "ended_at", "color"}; !slices.Equal(part.Needs, want) {
		t.Errorf("it needs %q, want %q", part.Needs, want)
	}
	if want := "(id uuid, version bigint, status text, lines jsonb, ended_at timestamptz, color text)"; part.Columns != want {
		t.Errorf("its columns are %s, want %s", part.Columns, want)
	}
	begin := `{"id":"` + uuid.Max.String() + `","version":1,`
	for entity, wrong := range map[string]string{
		`"color":7,"status":"open","lines":[{"model":"volta","options":["roof"]}]}`:                                          "",
		`"color":7,"status":"open","lines":[{"model":"volta","options":[],"quantity":"many"}],"currency":1,"ended_at":null}`: "",
		`"color":7,"status":"ajar","lines":[{"model":"volta","options":[]}]}`:                                                "status must be one of open, closed",
		`"status":"open","lines":[{"model":"volta","options":[]}]}`:                                                          "color is missing",
		`"color":7,"status":"open","lines":[{"options":[]}]}`:                                                                "lines[0].model is missing",
		`"color":7,"status":"open","lines":[{"model":"volta","options":[""]}]}`:                                              "lines[0].options[0] must have 1 to 9 characters",
		`"color":7,"status":"open","lines":[]}`:                                                                              "lines must have at least 1 elements",
		`"color":7,"status":"open","lines":[{"model":"volta","options":[]}],"ended_at":"soon"}`:                              "ended_at must be a time of RFC 3339, in the years 1 to 9999",
		`"color":7,"status":"open","lines":[{"model":"volta","options":[]}],"note":{"a":1e9999}}`:                            "holds a number that does not fit",
	} {
		err := part.Check(feed.Entry{ID: uuid.Max, Version: 1, Entity: []byte(begin + entity)})
		if got := said(err); got != wrong && got != "the entity "+wrong {
			t.Errorf("%s: %q, want %q", entity, got, wrong)
		}
	}
	other := feed.Entry{ID: uuid.Nil, Version: 1, Entity: []byte(begin + `"color":7,"status":"open","lines":[{"model":"volta","options":[]}]}`)}
	if got := said(part.Check(other)); got != "id is not that of the entry" {
		t.Error("the id of another one:", got)
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
