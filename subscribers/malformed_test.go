package main

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/carbuild"
	"github.com/edison-cars/data-feeds/shared/customer"
	"github.com/edison-cars/data-feeds/shared/order"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
	"github.com/edison-cars/data-feeds/shared/shipment"
)

// An edit changes a text in the item of an entity.
type edit struct {
	id       uuid.UUID
	old, new string
}

// says has the sources' pages say otherwise of some entities.
func (r *readers) says(edits []edit) {
	for _, s := range r.sources {
		honest := *s.handler.Load()
		var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			req.Header.Del("Accept-Encoding")
			answer := httptest.NewRecorder()
			honest.ServeHTTP(answer, req)
			body := answer.Body.String()
			for _, e := range edits {
				if before, item, has := strings.Cut(body, `{"id":"`+e.id.URN()); has {
					body = before + `{"id":"` + e.id.URN() + strings.Replace(item, e.old, e.new, 1)
				}
			}
			maps.Copy(w.Header(), answer.Header())
			w.Header().Del("Content-Length")
			w.WriteHeader(answer.Code)
			_, _ = io.WriteString(w, body)
		})
		s.handler.Store(&handler)
	}
}

// An item that cannot be read is put aside by all services, and the others arrive.
func TestMalformedItems(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "all services")
	r := newReaders(t)
	deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	var entities []entity
	var edits []edit
	for _, feed := range []string{order.Feed, customer.Feed, carbuild.Feed, shipment.Feed} {
		for _, x := range [][2]string{
			{`"version":1,"entity"`, `"version":0,"entity"`},
			{`"version":1,"entity"`, `"version":"1","entity"`},
			{`"version":1,"entity":{`, `"version":1,"entity":null,"entities":{`},
			{`"version":1,"entity":{`, `"version":1,"deleted":true,"entity":{`},
			{`"date_modified":"2026`, `"date_modified":"yesterday, 2026`},
			{`"_datafeed":{"position":`, `"_datafeed":{"place":`},
			{`"version":1,"entity":{`, `"version":1,"entity":{"a":` + deep(9_990) + `,`},
			{`"version":1,"entity":{`, `"version":0,"entity":{"a":` + deep(9_990) + `,`},
			{`"version":1,"entity":{`, `"version":0,"entity":{"a":"` + strings.Repeat("x", 1<<20) + `",`},
			{`"version":1,"entity":{`, `"version":1,"entity":{"a":1e999999,`},
			{`"version":1,"entity":{`, `"version":1,"version":0,"entity":{`},
			{`"version":1,"entity":{`, `"version":1,"entity":{"a":"` + "\xff\xfe" + `",`},
			{`"version":1,"entity":{`, `"version":0,"entity":{"a":"` + "\xff\xfe" + `",`},
		} {
			e := goodOf(feed)
			e.good, e.name = false, x[1][:min(len(x[1]), 60)]
			entities = append(entities, goodOf(feed), e)
			edits = append(edits, edit{e.id, x[0], x[1]})
		}
	}
	r.says(edits)
	r.publish(t, entities)
	rejected := r.agree(t, entities)
	for _, e := range entities {
		if !e.good && !rejected[e.id] {
			t.Errorf("it got in: %s", e.name)
		}
	}
	r.work(t)
	for _, reader := range r.all {
		if status, _, body := get(t, reader.url+"/subscriptions/"+reader.feed+"/rejected", "application/json"); status != http.StatusOK || !strings.HasPrefix(body, "[{") {
			t.Errorf("%s%s: %d: %.300s", reader.service, reader.feed, status, body)
		}
	}
}
