package feed

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// A feed without Show is made of the members of its entities, whatever these are.
func TestMembers(t *testing.T) {
	t.Parallel()
	id := uuid.NewSHA1(uuid.NameSpaceOID, []byte("thing"))
	for name, x := range map[string]struct{ entity, title, html, xml string }{
		"a name": {
			`{"name":"Ada & <Co>","n":1.50}`, "Ada & <Co>",
			"<dl><dt>name</dt><dd>Ada &amp; &lt;Co&gt;</dd><dt>n</dt><dd>1.50</dd></dl>", "<name>Ada &amp; &lt;Co&gt;</name><n>1.50</n>",
		},
		"a title before a name":  {`{"name":"x","title":"T"}`, "T", "", "<name>x</name><title>T</title>"},
		"an id that is a number": {`{"id":42,"total":1}`, "42", "", "<id>42</id>"},
		"an id that is text":     {`{"id":"A-7","title":null}`, "A-7", "", "<id>A-7</id>"},
		"a name before an id":    {`{"id":42,"name":"x"}`, "x", "", "<id>42</id>"},
		"no id of one value":     {`{"id":{"a":1}}`, id.String(), "", "<id><a>1</a></id>"},
		"null as an id":          {`{"id":null,"n":{"id":3}}`, id.String(), "", "<n><id>3</id></n>"},
		"no text as a name":      {`{"name":7,"title":""}`, id.String(), "", "<name>7</name><title></title>"},
		"nested": {
			`{"lines":[{"sku":"a","n":[1,[2]]},{}],"to":{"city":"Paris"}}`, id.String(),
			"<dl><dt>lines</dt><dd><ul><li><dl><dt>sku</dt><dd>a</dd><dt>n</dt><dd><ul><li>1</li><li><ul><li>2</li></ul></li></ul></dd></dl></li><li></li></ul></dd>" +
				"<dt>to</dt><dd><dl><dt>city</dt><dd>Paris</dd></dl></dd></dl>",
			"<lines><item><sku>a</sku><n><item>1</item><item><item>2</item></item></n></item><item></item></lines><to><city>Paris</city></to>",
		},
		"null and booleans": {`{"a":null,"b":true}`, id.String(), "<dl><dt>a</dt><dd></dd><dt>b</dt><dd>true</dd></dl>", `<a nil="true"></a><b>true</b>`},
		"names that are none in XML": {
			`{"a b":1,"1":2,"":3,"xmlns":4,"ü":5,"<x>":6,"a:b":7,"\u0001":8,"XMLfoo":9,"-":10}`, id.String(), "",
			`<member name="a b">1</member><member name="1">2</member><member name="">3</member><member name="xmlns">4</member><member name="ü">5</member>` +
				`<member name="&lt;x&gt;">6</member><member name="a:b">7</member><member name="` + "\uFFFD" + `">8</member><member name="XMLfoo">9</member><member name="-">10</member>`,
		},
		"names that XML has":     {`{"a-b_c.1":1,"_":2}`, id.String(), "", "<a-b_c.1>1</a-b_c.1><_>2</_>"},
		"unicode":                {`{"name":"Zo\u00eb 🚗 \ud83d\ude97 \u0000\u001b]"}`, "Zoë 🚗 🚗 \x00\x1b]", "", "<name>Zoë 🚗 🚗 \uFFFD\uFFFD]</name>"},
		"half a surrogate":       {`{"name":"a\ud800b"}`, "a\uFFFDb", "", "<name>a\uFFFDb</name>"},
		"a name twice":           {`{"a":1,"a":2}`, id.String(), "", "<a>1</a><a>2</a>"},
		"an array":               {`["a",{"name":"x"}]`, id.String(), "<ul><li>a</li><li><dl><dt>name</dt><dd>x</dd></dl></li></ul>", "<item>a</item><item><name>x</name></item>"},
		"a string":               {`"<b>"`, id.String(), "&lt;b&gt;", "&lt;b&gt;"},
		"nothing":                {`{}`, id.String(), "", ""},
		"no JSON":                {`{"a":<`, id.String(), "{&#34;a&#34;:&lt;", "{&#34;a&#34;:&lt;"},
		"a number that is large": {`{"n":123456789012345678901234567890}`, id.String(), "", "<n>123456789012345678901234567890</n>"},
		"more values than are shown": {
			`{"name":"x","n":[0` + strings.Repeat(",0", maxValues) + `]}`, "x",
			"<dl><dt>name</dt><dd>x</dd><dt>n</dt><dd>[0" + strings.Repeat(",0", 999) + "… (8003 more characters)</dd></dl>", "<name>x</name><n>[0,0,",
		},
		"more members than are shown": {`{"name":"x"` + strings.Repeat(`,"a":0`, maxValues) + `}`, id.String(), "", `{&#34;name&#34;:&#34;x&#34;,`},
		"a long text": {
			`{"name":"` + strings.Repeat("ü", 3000) + `","b":1}`, strings.Repeat("ü", 2000) + "… (1000 more characters)",
			"<dl><dt>name</dt><dd>" + strings.Repeat("ü", 2000) + "… (1000 more characters)</dd><dt>b</dt><dd>1</dd></dl>",
			"<name>" + strings.Repeat("ü", 3000) + "</name><b>1</b>",
		},
		"a long name": {
			`{"` + strings.Repeat("n", 3000) + `":1}`, id.String(), "<dl><dt>" + strings.Repeat("n", 2000) + "… (1000 more characters)</dt><dd>1</dd></dl>",
			"<" + strings.Repeat("n", 3000) + ">1<",
		},
		"many members": {
			`{"a":[` + strings.Repeat(`"<>",`, 4000) + `{}],"b":1,"c":2}`, id.String(), "", "<c>2</c>",
		},
		"deeper than is shown": {strings.Repeat("[", 60) + strings.Repeat("]", 60), id.String(), "", "<item>" + strings.Repeat("[", 10) + strings.Repeat("]", 10) + "</item>"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entry := Entry{Position: 1, ID: id, Version: 1, Updated: time.Unix(0, 0), Entity: []byte(x.entity)}
			doc := Document{Description: Description{Name: "things", Title: "Things", ID: "tag:things.example,2026:things"}, Page: Page{Entries: []Entry{entry}}}
			shown := doc.Words(entry)
			if shown.Title != x.title || x.html != "" && shown.HTML != x.html {
				t.Errorf("title %q, HTML %s", shown.Title, shown.HTML)
			}
			atom, err := doc.Atom()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(atom), x.xml) || !strings.Contains(string(atom), `<entity xmlns="https://datafeed.example/ns/entity"`) {
				t.Errorf("Atom without %s: %s", x.xml, atom)
			}
			var tree struct {
				Entity struct {
					Inner string `xml:",innerxml"`
				} `xml:"https://datafeed.example/ns/entity entity"`
			}
			if err := xml.Unmarshal(atom, &struct {
				Entry any `xml:"entry"`
			}{&tree}); err != nil {
				t.Errorf("%v: %s", err, atom)
			}
			if !json.Valid([]byte(x.entity)) {
				return
			}
			if body, err := doc.JSON(); err != nil || !json.Valid(body) {
				t.Errorf("JSON: %v %s", err, body)
			}
		})
	}
}

// What Show makes of an entry costs its page nothing: readers want the entity.
func TestShowThatFails(t *testing.T) {
	t.Parallel()
	for name, show := range map[string]func() (Shown, error){
		"an error":       func() (Shown, error) { return Shown{Title: "half"}, errors.New("no such model") },
		"a panic":        func() (Shown, error) { panic("no such model") },
		"too many words": func() (Shown, error) { return Shown{Title: "A car", HTML: strings.Repeat("<p>", maxWords)}, nil },
	} {
		d := &Document{Description: Description{Name: "things", Show: func(Entry) (Shown, error) { return show() }}}
		d.Entries = []Entry{{Position: 7, Version: 1, Entity: []byte(`{"a":1}`)}}
		body, err := d.JSON()
		if err != nil || !strings.Contains(string(body), `"title":"Entry 7"`) || !strings.Contains(string(body), `"entity":{"a":1}`) {
			t.Errorf("%s: %v: %.300s", name, err, body)
		}
		if body, err = d.Atom(); err != nil || len(body) > 2000 {
			t.Errorf("%s: %v: %d bytes", name, err, len(body))
		}
	}
}

// The content of an entry is for people: it says little more than its bound, and where it is shortened.
func TestContentIsShort(t *testing.T) {
	t.Parallel()
	quotes := strings.Repeat("'", 6)
	for _, entity := range []string{
		`["` + strings.Repeat("'", 250_000) + `"]`,
		`{"name":"x","a":[` + strings.Repeat(`"`+quotes+`",`, 4000) + `0],"b":0}`,
		`{` + strings.Repeat(`"`+quotes+`":0,`, 4000) + `"b":0}`,
	} {
		d := &Document{Description: Description{Name: "things"}}
		shown := d.Words(Entry{Position: 7, Version: 1, Entity: []byte(entity)})
		if n := len(shown.HTML); n > 2*maxHTML || !strings.Contains(shown.HTML, "…") || !strings.HasSuffix(shown.HTML, ">") {
			t.Errorf("%d bytes of HTML for %.30s: %s", n, entity, shown.HTML[max(n-300, 0):])
		}
		if len(shown.Title) > 100 {
			t.Errorf("the title of %.30s is %s", entity, shown.Title)
		}
	}
}
