// Package deploy_test holds compose.yaml against the programs that it runs.
package deploy_test

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/subscribers/services"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/edison-cars/data-feeds/shared/directory"
	"github.com/edison-cars/data-feeds/shared/feedclient"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

const (
	root   = "../.."
	stream = "COMPOSE_PROFILES=stream"
	scale  = "COMPOSE_PROFILES=scale"
)

// A program is what compose has to run.
type program struct {
	name, port string
	command    []string          // as in the image
	variables  []string          // that --help prints
	paths      map[string]string // of the feeds that it reads
}

func TestCompose(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t, "a build")
	bin := t.TempDir()
	output(t, "go", "build", "-C", root, "-buildvcs=false", "-o", bin+"/", "./sales-feed", "./subscribers", "./shared/cmd/map", "./shared/cmd/mailsink")
	project := load(t, stream)
	programs := programs(t, bin)
	known, composed := []string{"map", "mailsink", "rabbitmq"}, []program{}
	for _, p := range programs {
		known = append(known, p.name, p.name+"-db")
		if _, found := project.Services[p.name]; found {
			composed = append(composed, p)
		}
	}
	for _, name := range project.ServiceNames() {
		if !slices.Contains(known, name) {
			t.Errorf("%s is none of %v", name, known)
		}
	}
	t.Run("without the stream", func(t *testing.T) {
		ofStream := func(name string) bool { return slices.Contains([]string{"relay", "relay-db", "rabbitmq"}, name) }
		without := load(t)
		want := slices.DeleteFunc(project.ServiceNames(), ofStream)
		if got := without.ServiceNames(); !slices.Equal(got, want) {
			t.Errorf("%v, not %v", got, want)
		}
		checkMap(t, without.Services["map"], slices.DeleteFunc(slices.Clone(composed), func(p program) bool { return ofStream(p.name) }))
	})
	t.Run("rabbitmq", func(t *testing.T) { checkBroker(t, project) })
	t.Run("map", func(t *testing.T) {
		p := program{name: "map", port: "8079", command: []string{"map"}}
		p.variables = variables(t, bin, p.command)
		checkService(t, p, project.Services["map"])
		checkMap(t, project.Services["map"], composed)
	})
	t.Run("mailsink", func(t *testing.T) {
		p := program{name: "mailsink", port: "8025", command: []string{"mailsink"}}
		p.variables = variables(t, bin, p.command)
		checkService(t, p, project.Services[p.name])
		if u, err := url.Parse(value(project.Services["mailer"], "SMTP_URL")); err != nil || value(project.Services[u.Hostname()], "SMTP_ADDR") != "0.0.0.0:"+u.Port() {
			t.Errorf("mails go to %v, %v, where nobody listens", u, err)
		}
	})
	volumes := map[string]bool{}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			service, found := project.Services[p.name]
			if !found {
				t.Skipf("containers go without %s: it has no entry in compose.yaml", p.name)
			}
			database := project.Services[p.name+"-db"]
			checkService(t, p, service)
			checkDatabase(t, database)
			if d := service.DependsOn; len(d) != 1 || d[database.Name].Condition != types.ServiceConditionHealthy {
				t.Errorf("depends on %v; want its healthy database alone", d)
			}
			if u, err := url.Parse(value(service, "DATABASE_URL")); err != nil || u.Host != database.Name {
				t.Errorf("its database is at %v, %v; want %s", u, err, database.Name)
			} else if password, _ := u.User.Password(); password != value(database, "POSTGRES_PASSWORD") {
				t.Error("it does not know the password of its database")
			}
			for _, v := range database.Volumes {
				if volumes[v.Source] {
					t.Errorf("its volume %s is another database's, too", v.Source)
				}
				volumes[v.Source] = true
			}
			for _, name := range p.variables {
				if strings.HasPrefix(name, "POLL_") && name != "POLL_WAIT" { // which is no schedule
					checkPoll(t, bin, p, name)
				} else if feed, ok := strings.CutPrefix(name, "FEED_URL_"); ok {
					checkFeed(t, project, feed, p.paths[feed], value(service, name), value(service, "FEED_TOKEN"), value(service, "PLAIN_HOSTS"))
				}
			}
		})
	}
	customers := project.Services["customers"]
	if v := customers.Volumes; len(v) != 1 || v[0].Target != filepath.Dir(value(customers, "ERASED_FILE")) || v[0].ReadOnly || volumes[v[0].Source] {
		t.Errorf("the list of erased ids %s is to lie on a volume of its own; there is %+v", value(customers, "ERASED_FILE"), v)
	}
}

// The profile scale has all that stream has, another process of sales, and the cache tier, whose configuration leads to
// both.
func TestComposeScale(t *testing.T) {
	t.Parallel()
	project, without := load(t, scale, "SALES=cache"), load(t, stream)
	want := append(without.ServiceNames(), "cache", "sales-2")
	slices.Sort(want)
	if got := project.ServiceNames(); !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	sales, other, cache := project.Services["sales"], project.Services["sales-2"], project.Services["cache"]
	for name := range sales.Environment {
		if value(sales, name) != value(other, name) {
			t.Errorf("%s differs: %q and %q", name, value(sales, name), value(other, name))
		}
	}
	if len(other.Environment) != len(sales.Environment) || !slices.Equal(other.Command, sales.Command) || len(other.Ports) > 0 || len(other.DependsOn) != 1 {
		t.Errorf("sales-2 is %+v", other)
	}
	if image, _, _ := strings.Cut(cache.Image, ":"); image != "varnish" || len(cache.Ports) != 1 || cache.Ports[0].HostIP != "127.0.0.1" || cache.Ports[0].Target != 8080 ||
		len(cache.Volumes) != 1 || !cache.Volumes[0].ReadOnly || !slices.Contains(cache.Command, cache.Volumes[0].Target) {
		t.Errorf("image %q, ports %+v, volumes %+v, command %q", cache.Image, cache.Ports, cache.Volumes, cache.Command)
	}
	conf, err := os.ReadFile(cache.Volumes[0].Source)
	if err != nil {
		t.Fatal(err)
	}
	var backends []string
	for _, m := range regexp.MustCompile(`\.host = "(.*?)"; \.port = "(\d+)";`).FindAllStringSubmatch(string(conf), -1) {
		backends = append(backends, m[1])
		if at := project.Services[m[1]]; value(at, "ADDR") != "0.0.0.0:"+m[2] || value(at, "FEED_MAX_AGE") == "" || cache.DependsOn[m[1]].Condition != types.ServiceConditionHealthy {
			t.Errorf("the cache asks %s:%s, which listens on %q, with FEED_MAX_AGE=%s", m[1], m[2], value(at, "ADDR"), value(at, "FEED_MAX_AGE"))
		}
		if hosts := strings.Fields(value(project.Services[m[1]], "HOSTS")); !slices.Contains(hosts, "cache") {
			t.Errorf("%s does not answer as cache: %v", m[1], hosts)
		}
	}
	if !slices.Equal(backends, []string{"sales", "sales-2"}) {
		t.Errorf("the cache asks %v", backends)
	}
	for name, s := range project.Services {
		if at := value(s, "FEED_URL_ORDERS"); at != "" && at != "http://cache:8080/feeds/orders" {
			t.Errorf("%s reads %s", name, at)
		}
		if plain := value(s, "PLAIN_HOSTS"); plain != "" && !slices.Contains(strings.Fields(plain), "cache") {
			t.Errorf("%s does not send its token to the cache: %s", name, plain)
		}
	}
}

func checkService(t *testing.T, p program, s types.ServiceConfig) {
	t.Helper()
	if !slices.Equal([]string(s.Command), p.command) {
		t.Errorf("runs %q; want %q", s.Command, p.command)
	}
	if len(s.Ports) != 1 || s.Ports[0].HostIP != "127.0.0.1" || s.Ports[0].Published != p.port || value(s, "ADDR") != "0.0.0.0:"+s.Ports[0].Published {
		t.Errorf("publishes %+v, ADDR %s; want port %s on loopback", s.Ports, value(s, "ADDR"), p.port)
	}
	if h := s.HealthCheck; h == nil || h.Disable || !strings.Contains(strings.Join(h.Test, " "), "/readyz") {
		t.Errorf("health check: %+v", h)
	}
	for name := range s.Environment {
		if !slices.Contains(p.variables, name) {
			t.Errorf("sets %s, which --help does not have", name)
		}
	}
}

func checkDatabase(t *testing.T, s types.ServiceConfig) {
	t.Helper()
	if image, _, _ := strings.Cut(s.Image, ":"); image != "postgres" || len(s.Ports) > 0 || len(s.Volumes) != 1 {
		t.Errorf("database: image %q, ports %v, volumes %v", s.Image, s.Ports, s.Volumes)
	}
	if h := s.HealthCheck; h == nil || h.Disable || !slices.Contains(h.Test, "pg_isready") {
		t.Errorf("database: health check: %+v", h)
	}
}

// checkBroker: the relay reaches it, and knows its password; so does the dashboard, which listens.
func checkBroker(t *testing.T, project *types.Project) {
	t.Helper()
	broker := project.Services["rabbitmq"]
	image, _, _ := strings.Cut(broker.Image, ":")
	if image != "rabbitmq" || len(broker.Ports) != 1 || broker.Ports[0].HostIP != "127.0.0.1" || broker.Ports[0].Target != 5672 || len(broker.Volumes) != 1 {
		t.Errorf("image %q, ports %+v, volumes %v; want the AMQP port on loopback alone", broker.Image, broker.Ports, broker.Volumes)
	}
	u, err := url.Parse(value(project.Services["relay"], "AMQP_URL"))
	if err != nil || u.Host != "rabbitmq:5672" {
		t.Fatalf("the relay's broker is at %v, %v", u, err)
	}
	if password, _ := u.User.Password(); u.User.Username() != value(broker, "RABBITMQ_DEFAULT_USER") || password != value(broker, "RABBITMQ_DEFAULT_PASS") {
		t.Error("the relay does not know user and password of its broker")
	}
	if got := value(project.Services["dashboard"], "STREAM_ORDERS"); got != u.String() {
		t.Errorf("the dashboard listens to %q", got)
	}
}

// checkMap: it asks every program where that listens.
func checkMap(t *testing.T, s types.ServiceConfig, programs []program) {
	t.Helper()
	var asked directory.Services
	if err := asked.UnmarshalText([]byte(value(s, "SERVICES"))); err != nil {
		t.Fatal(err)
	}
	var plain feedclient.PlainHosts
	if err := plain.UnmarshalText([]byte(value(s, "PLAIN_HOSTS"))); err != nil {
		t.Fatal(err)
	}
	if err := asked.Check(value(s, "FEED_TOKEN"), plain); err != nil {
		t.Error(err)
	}
	var want directory.Services
	for _, p := range programs {
		want = append(want, directory.Service{Name: p.name, URL: "http://" + p.name + ":" + p.port})
	}
	byName := func(a, b directory.Service) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(asked, byName)
	slices.SortFunc(want, byName)
	if !slices.Equal(asked, want) {
		t.Errorf("the map asks %+v; want %+v", asked, want)
	}
}

// checkPoll: a bad setting for this service reaches its program, which says no, and reaches no other.
func checkPoll(t *testing.T, bin string, p program, name string) {
	t.Helper()
	own := strings.ToUpper(p.name) + "_" + name
	project := load(t, stream, own+"=never")
	for other, s := range project.Services {
		if got := value(s, name); (got == "never") != (other == p.name) {
			t.Errorf("%s=never gives %s %q", own, other, got)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, p.command[0]), p.command[1:]...)
	cmd.Env = []string{}
	for k, v := range project.Services[p.name].Environment {
		cmd.Env = append(cmd.Env, k+"="+*v)
	}
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), name) {
		t.Errorf("with %s=never: %v\n%s", own, err, out)
	}
}

// checkFeed: the feed is asked where a service of the project listens, with a token that it knows if it takes tokens.
func checkFeed(t *testing.T, project *types.Project, name, path, at, token, plain string) {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil || u.Path != cmp.Or(path, "/feeds/"+strings.ToLower(name)) {
		t.Fatalf("the feed %s at %q, %v", name, at, err)
	}
	source := project.Services[u.Hostname()]
	if value(source, "ADDR") != "0.0.0.0:"+u.Port() {
		t.Errorf("the feed %s is asked for at %s, where nobody listens", name, u.Host)
	}
	if !knows(source, token) {
		t.Errorf("the feed %s is asked for with a token that %s does not know", name, u.Host)
	}
	var hosts feedclient.PlainHosts
	if err := hosts.UnmarshalText([]byte(plain)); err != nil {
		t.Fatal(err)
	}
	if err := hosts.Check(u, token != "", "PLAIN_HOSTS"); err != nil {
		t.Errorf("the feed %s: %v", name, err)
	}
	if !slices.Contains(strings.Fields(value(source, "HOSTS")), u.Hostname()) {
		t.Errorf("%s does not answer as %s: HOSTS=%s", source.Name, u.Hostname(), value(source, "HOSTS"))
	}
}

// knows reports whether the service takes the token of a reader.
func knows(s types.ServiceConfig, token string) bool {
	return strings.Contains(value(s, "TOKENS"), fmt.Sprintf(":reader:%x", sha256.Sum256([]byte(token))))
}

// Access is closed in containers: each service takes the tokens that the others send, and those that are set instead.
func TestComposeTokens(t *testing.T) {
	t.Parallel()
	for _, env := range [][]string{nil, {"TOKENS=warehouse:reader:" + strings.Repeat("0", 64), "FEED_TOKEN=datafeed_A"}} {
		project := load(t, env...)
		for name, s := range project.Services {
			if !strings.HasSuffix(name, "-db") && name != "rabbitmq" && knows(s, value(project.Services["warehouse"], "FEED_TOKEN")) != (env == nil) {
				t.Errorf("with %v %s takes %q", env, name, value(s, "TOKENS"))
			}
		}
	}
}

func load(t *testing.T, env ...string) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{root + "/compose.yaml"}, cli.WithEnv(env), cli.WithDefaultProfiles())
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// programs are sales, customers and the subscribers.
func programs(t *testing.T, bin string) []program {
	t.Helper()
	all := []program{
		{name: "sales", port: "8080", command: []string{"sales-feed"}},
		{name: "customers", port: "8081", command: []string{"sales-feed", "customers"}},
	}
	for _, s := range services.All() {
		_, port, _ := net.SplitHostPort(s.Addr)
		paths := map[string]string{}
		for _, f := range s.Feeds {
			if u, err := url.Parse(f.URL); err == nil {
				paths[strings.ToUpper(f.Name)] = u.Path
			}
		}
		all = append(all, program{name: s.Name, port: port, command: []string{"subscribers", s.Name}, paths: paths})
	}
	for i, p := range all {
		all[i].variables = variables(t, bin, p.command)
	}
	return all
}

// variables are those that --help of a program prints.
func variables(t *testing.T, bin string, command []string) (names []string) {
	t.Helper()
	help := output(t, filepath.Join(bin, command[0]), append(command[1:], "--help")...)
	for _, m := range regexp.MustCompile(`(?m)^  ([A-Z_]+) `).FindAllStringSubmatch(help, -1) {
		names = append(names, m[1])
	}
	return names
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// value is a service's variable, "" if it has none.
func value(s types.ServiceConfig, name string) string {
	if v := s.Environment[name]; v != nil {
		return *v
	}
	return ""
}
