package access

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNewToken(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		token, hash := NewToken()
		if seen[token] || len(token) < len(tokenPrefix)+26 || strings.Trim(token[len(tokenPrefix):], "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
			t.Fatalf("token %s", token)
		}
		seen[token] = true
		if len(hash) != 64 || strings.Contains(hash, token) {
			t.Fatalf("hash %s", hash)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	ada, adaHash := NewToken()
	old, oldHash := NewToken()
	renewed, renewedHash := NewToken()
	scarce, scarceHash := NewToken()
	unknown, _ := NewToken()
	for name, text := range map[string]string{
		"commas":      "ada:operator:" + adaHash + ",warehouse:reader:" + oldHash + ",warehouse:reader:" + strings.ToUpper(renewedHash) + ",ada:reader=orders+builds:" + scarceHash,
		"white space": " ada:operator:" + adaHash + "\nwarehouse:reader:" + oldHash + "\r\n\twarehouse:reader:" + renewedHash + " , ada:reader=orders+builds:" + scarceHash + ",\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var list Tokens
			if err := list.UnmarshalText([]byte(text)); err != nil {
				t.Fatal(err)
			}
			for token, want := range map[string]Identity{
				ada: {"ada", Operator}, old: {"warehouse", Reader}, renewed: {"warehouse", Reader}, scarce: {"ada", Reader},
			} {
				if got := list.find(token); got == nil || got.Identity != want {
					t.Errorf("%v, want %v", got, want)
				}
			}
			for _, token := range []string{"", unknown, adaHash, ada + "A", ada[1:], strings.Repeat("A", maxToken+1)} {
				if list.find(token) != nil {
					t.Errorf("%q is known", token)
				}
			}
			for feed, may := range map[string]bool{
				"orders": true, "orders.json": true, "orders.atom": true, "orders.cloudevents": true, "builds.html": true,
				"customers": false, "orders.csv": false, "orders.json.json": false, "": false, ".json": false, "order": false, "Orders": false,
			} {
				if list.find(scarce).mayRead(feed, "") != may || !list.find(old).mayRead(feed, "") || !list.find(ada).mayRead(feed, "") {
					t.Errorf("feed %q", feed)
				}
			}
		})
	}
}

// A token for a view reads that view alone, and one for a feed the views, too.
func TestTokensOfViews(t *testing.T) {
	t.Parallel()
	of := func(grants string) *token {
		var list Tokens
		text, hash := NewToken()
		if err := list.UnmarshalText([]byte("warehouse:reader=" + grants + ":" + hash)); err != nil {
			t.Fatal(err)
		}
		return list.find(text)
	}
	view, whole := of("orders/views/open"), of("builds+orders")
	for _, x := range []struct {
		feed, view      string
		byView, byWhole bool
	}{
		{"orders", "open", true, true}, {"orders", "open.atom", true, true}, {"orders", "", false, true}, {"orders.json", "", false, true},
		{"orders", "other", false, true}, {"orders", "open.csv", false, true}, {"customers", "open", false, false}, {"orders/views/open", "", true, false},
		{"", "open", false, false}, {"orders", "views/open", false, true},
	} {
		if view.mayRead(x.feed, x.view) != x.byView || whole.mayRead(x.feed, x.view) != x.byWhole {
			t.Errorf("%+v", x)
		}
	}
}

func TestTokensAreRefusedWithoutRepeatingThem(t *testing.T) {
	t.Parallel()
	token, hash := NewToken()
	_, other := NewToken()
	for _, list := range []string{
		"", ",", " \n", "warehouse", "warehouse:reader", "warehouse:reader:", ":reader:" + hash, "warehouse:" + hash, "warehouse:reader:" + token, token, hash,
		"warehouse:reader:" + hash + "00", "warehouse:reader:" + hash[:62], "warehouse:reader:" + hash + ":", "warehouse:reader:" + hash + ":reader",
		"9:reader:" + hash, "wäre:reader:" + hash, "ware/house:reader:" + hash, strings.Repeat("w", 65) + ":reader:" + hash,
		"warehouse:Reader:" + hash, "warehouse:admin:" + hash, "warehouse::" + hash, "warehouse:operator=orders:" + hash,
		"warehouse:reader=:" + hash, "warehouse:reader=orders+:" + hash, "warehouse:reader=+orders:" + hash, "warehouse:reader+orders:" + hash,
		"warehouse:reader:" + other + ";dashboard:reader:" + hash, "ware house:reader:" + hash,
		"warehouse:reader:" + hash + ",dashboard:reader:" + hash, "warehouse:reader:" + hash + ",warehouse:operator:" + strings.ToUpper(hash),
	} {
		for name, refuse := range map[string]func() error{
			"TOKENS": func() error { return new(Tokens).UnmarshalText([]byte(list)) },
			"a file": func() error { _, err := Tokens{}.with(list + "\n"); return err },
		} {
			err := refuse()
			if err == nil {
				t.Errorf("%s: %q is taken", name, list)
			} else if strings.Contains(err.Error(), token) || strings.Contains(err.Error(), hash) || strings.Contains(err.Error(), other) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestTokensFile(t *testing.T) {
	t.Parallel()
	token, hash := NewToken()
	inBoth, hashInBoth := NewToken()
	var listed Tokens
	if err := listed.UnmarshalText([]byte("both:reader:" + hashInBoth)); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, text := range map[string]string{
		"lines":    "# who\n\n  ada:operator:" + hash + "  # since May\r\n\n#end\n",
		"two":      "ada:operator:" + hash + "\n#x:reader:nothing\n",
		"one line": "ada:operator:" + hash + "\n",
	} {
		a, err := New(Settings{Tokens: listed, TokensFile: write(name, text)}, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if a.tokens.Load().find(token) == nil || a.tokens.Load().find(inBoth) == nil {
			t.Errorf("%s: a token is not known", name)
		}
	}
	if listed.find(token) != nil {
		t.Error("the file changes TOKENS")
	}
	link := filepath.Join(folder, "link") // as Kubernetes mounts a secret
	if err := os.Symlink(filepath.Join(folder, "lines"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Settings{TokensFile: link}, Options{}); err != nil {
		t.Error(err)
	}
	for name, x := range map[string]struct{ path, says string }{
		"missing":              {filepath.Join(folder, "missing"), "no such file"},
		"a folder":             {folder, "not a regular file"},
		"a device":             {os.DevNull, "not a regular file"},
		"empty":                {write("empty", ""), "no token"},
		"comments alone":       {write("comments", "# ada:operator:"+hash+"\n"), "no token"},
		"without its end":      {write("cut", "ada:operator:"+hash), "last line"},
		"a line cut off":       {write("half", "ada:operator:"+hash+"\nbob:reader:"+hash[:20]+"\n"), "line 2"},
		"a hash twice":         {write("twice", "ada:operator:"+hash+"\n\nbob:reader:"+hash+"\n"), "line 3"},
		"a hash of TOKENS":     {write("both", "ada:operator:"+hash+"\nbob:reader:"+hashInBoth+"\n"), "line 2"},
		"endless":              {write("endless", strings.Repeat("#\n", 1<<20)), "more than"},
		"another kind of file": {write("binary", "\x7fELF\x00\xff\n"), "line 1"},
	} {
		_, err := New(Settings{Tokens: listed, TokensFile: x.path}, Options{})
		if err == nil || !strings.Contains(err.Error(), "TOKENS_FILE") || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%s: %v", name, err)
		} else if hashes.MatchString(err.Error()) || strings.Contains(err.Error(), tokenPrefix) {
			t.Errorf("%s: %v", name, err)
		}
	}
	unreadable := write("unreadable", "ada:operator:"+hash+"\n")
	if err := os.Chmod(unreadable, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Settings{TokensFile: unreadable}, Options{}); err == nil && os.Getuid() != 0 { // root may read it
		t.Error("read without permission")
	}
}

func FuzzTokens(f *testing.F) {
	token, hash := NewToken()
	for _, seed := range []string{"ada:operator:" + hash, "a:reader=b+c:" + hash + ",", "a:reader:" + hash + "\n#", hash, ":::", "a:reader=:" + hash} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var list Tokens
		err := list.UnmarshalText([]byte(text))
		if err == nil == (len(list.byHash) == 0) {
			t.Fatalf("%v with %d tokens", err, len(list.byHash))
		}
		if err != nil && hashes.MatchString(err.Error()) {
			t.Fatal(err)
		}
		for _, known := range list.byHash {
			if !tokenName.MatchString(known.Name) || known.Role != Reader && known.Role != Operator || slices.Contains(known.feeds, "") ||
				known.Role == Operator && known.feeds != nil || list.byHash[known.hash] != known {
				t.Fatalf("%+v", known)
			}
		}
		if known := list.find(token); known != nil && !strings.Contains(strings.ToLower(text), hash) {
			t.Fatal("a token is known that is not listed")
		}
		if all, err := (Tokens{}).with(text); err == nil && (len(all.byHash) == 0 || !strings.HasSuffix(text, "\n")) {
			t.Fatalf("%q is taken as a file", text)
		}
	})
}
