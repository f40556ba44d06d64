// Package cache has the configurations of a cache tier in front of feeds: nginx.conf and feed.vcl. README.md tells what
// they do.
package cache

import (
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed nginx.conf
var nginxConf string

//go:embed feed.vcl
var varnishConf string

// A Kind is a program that can be the cache.
type Kind string

// The kinds.
const (
	Nginx   Kind = "nginx"
	Varnish Kind = "varnishd"
)

// Find returns the path of the program, or "" if it is not installed.
func (k Kind) Find() string {
	for _, name := range []string{string(k), "/usr/sbin/" + string(k)} { // the folder is not in everybody's PATH
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// Command returns the command line of a cache that listens on addr, an address of this machine, in front of the one or
// two sources, in the foreground, with its files in dir, an absolute path. It ends on SIGTERM.
func (k Kind) Command(dir, addr string, sources ...string) ([]string, error) {
	first, second := sources[0], sources[len(sources)-1]
	if k == Nginx {
		conf, err := write(filepath.Join(dir, "nginx.conf"), nginxConf, "listen 8080;", "listen "+addr+";",
			"server sales:8080 ", "server "+first+" ", "server sales-2:8080 ", "server "+second+" ")
		return []string{k.Find(), "-p", dir, "-c", conf, "-e", "stderr", "-g", "daemon off;"}, err
	}
	backend := func(addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		return fmt.Sprintf(`.host = %q; .port = %q;`, host, port)
	}
	conf, err := write(filepath.Join(dir, "feed.vcl"), varnishConf, `.host = "sales"; .port = "8080";`, backend(first),
		`.host = "sales-2"; .port = "8080";`, backend(second))
	return []string{k.Find(), "-F", "-n", filepath.Join(dir, "varnish"), "-a", addr, "-f", conf, "-s", "malloc,256m", "-j", "none"}, err
}

// write writes the configuration with each old text replaced by the new one after it.
func write(file, conf string, changes ...string) (string, error) {
	for i := 0; i < len(changes); i += 2 {
		if strings.Count(conf, changes[i]) != 1 {
			return "", fmt.Errorf("%s has no single %q", filepath.Base(file), changes[i])
		}
		conf = strings.Replace(conf, changes[i], changes[i+1], 1)
	}
	return file, os.WriteFile(file, []byte(conf), 0o644)
}
