package main
import ("testing";"os";"time"
 "github.com/klauspost/compress/zstd"
 "github.com/edison-cars/data-feeds/shared/feed")
func zpage(n int) []byte {
	d := &feed.Document{Description: description, View: feed.Replay}
	d.Sealed = true
	for i := range n {
		o := newOrder()
		e, _ := newEntry(o)
		d.Entries = append(d.Entries, feed.Entry{Position: int64(i+1), ID: o.ID, Version: 1, Updated: time.Now().UTC(), Entity: e.Payload})
	}
	d.Cursor.Position = int64(n); d.Cursor,_ = feed.ParseCursor("1000-aaaaaaaaaaaa")
	b, err := d.JSON(); if err != nil { panic(err) }
	return b
}
func BenchmarkRender(b *testing.B) {
	for b.Loop() { zpage(1000) }
}
func BenchmarkParse(b *testing.B) {
	p := zpage(1000); b.SetBytes(int64(len(p)))
	for b.Loop() { if _, err := feed.ParsePage(p, feed.Cursor{}); err != nil { b.Fatal(err) } }
}
func BenchmarkUnzstd(b *testing.B) {
	p := zpage(1000); b.SetBytes(int64(len(p)))
	os.WriteFile("/tmp/exp/page.json", p, 0o644)
	enc, _ := zstd.NewWriter(nil); z := enc.EncodeAll(p, nil); b.Logf("%d -> %d", len(p), len(z))
	dec, _ := zstd.NewReader(nil, zstd.WithDecoderLowmem(true)); var out []byte
	for b.Loop() { out, _ = dec.DecodeAll(z, out[:0]) }
}
