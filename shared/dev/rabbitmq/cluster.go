package rabbitmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// A Cluster is a RabbitMQ of several nodes. Each has a folder of its own.
type Cluster struct {
	URL   string // of all nodes
	Nodes []*Server

	*folder
	group    *group
	epmd     *child // of all nodes
	epmdAddr string
	cookie   string // the secret that the nodes share
}

// StartCluster returns when all nodes accept connections. The caller ends them with Kill.
func StartCluster(ctx context.Context, dir string, nodes int) (_ *Cluster, err error) {
	found, err := Find()
	if err != nil {
		return nil, err
	}
	c := &Cluster{Nodes: make([]*Server, nodes), cookie: rand.Text()}
	if c.folder, err = openFolder(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Kill()
		}
	}()
	if c.group, err = newGroup(); err != nil {
		return nil, err
	}
	if c.epmd, c.epmdAddr, err = startEpmd(ctx, c.folder, c.group, found.epmd); err != nil {
		return nil, err
	}
	if err = c.Start(ctx, 0); err != nil { // the others join it
		return nil, err
	}
	var others errgroup.Group
	for i := 1; i < nodes; i++ {
		others.Go(func() error { return c.Start(ctx, i) })
	}
	if err = others.Wait(); err != nil {
		return nil, err
	}
	var all []string
	for _, node := range c.Nodes {
		all = append(all, node.Addr)
	}
	c.URL = "amqp://guest:guest@" + strings.Join(all, ",") + "/"
	return c, nil
}

// Start starts a node, with what it kept if it was killed before.
func (c *Cluster) Start(ctx context.Context, i int) (err error) {
	cfg := Config{Dir: filepath.Join(c.dir, fmt.Sprint("node", i))}
	if before := c.Nodes[i]; before != nil {
		cfg.Addr = before.Addr
	}
	node, err := start(ctx, cfg, nodeName(i), c)
	if err == nil {
		c.Nodes[i] = node
	}
	return err
}

func nodeName(i int) string { return fmt.Sprintf("edison%d@localhost", i) }

// admit prepares the folder of a node. A node without data joins the first one; its list has to have itself, too.
func (c *Cluster) admit(dir, name string) error {
	var conf string
	if name != nodeName(0) {
		conf = "cluster_formation.peer_discovery_backend = classic_config\n"
		for i := range c.Nodes {
			conf += fmt.Sprintf("cluster_formation.classic_config.nodes.%d = %s\n", i+1, nodeName(i))
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "rabbitmq.conf"), []byte(conf), 0o644),
		os.WriteFile(filepath.Join(dir, ".erlang.cookie"), []byte(c.cookie), 0o600))
}

// Kill sends SIGKILL to all processes of all nodes.
func (c *Cluster) Kill() {
	for _, node := range c.Nodes {
		if node != nil {
			node.Kill()
		}
	}
	if c.group != nil {
		c.group.kill()
	}
	if c.epmd != nil {
		<-c.epmd.exited
	}
	c.close()
}
