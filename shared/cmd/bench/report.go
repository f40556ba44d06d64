package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

func (c *comparison) report(ctx context.Context) ([]chart, error) {
	fmt.Fprintf(c.out, "\nNothing is wrong: %s orders, %d a second; the delay is from the commit at sales to that at "+
		"each of three consumers (less than 0: sales is the last)\n", count(c.orders), ordersPerSecond)
	t := c.out.table("way", "sale p50 ms", "p99 ms", "delay p50 ms", "p99 ms", "requests or messages per 1,000 orders",
		"CPU ms per 1,000 orders", "sales knows", "changed for them")
	good := chart{title: "Nothing is wrong: a sale, and from commit to consumer (p50, shorter is better)", unit: " ms",
		series: []string{"sale", "from commit to consumer"}}
	bad := chart{title: "What the faults cost, all together (shorter is better)", counts: true,
		series: []string{"sales failed or waited", "entries lost, doubled or never sold", "missing at the newcomers"}}
	all := map[*company]*results{}
	for _, company := range c.companies {
		r, err := company.judge(ctx)
		if err != nil {
			return nil, err
		}
		all[company] = r
		delays, err := company.delays(goodDays, company.consumers[:len(consumerNames)]...)
		if err != nil {
			return nil, err
		}
		sales, n := company.latencies(goodDays), float64(c.orders+1)
		t.row(company.title, number(quantile(sales, 0.5)), number(quantile(sales, 0.99)), number(quantile(delays, 0.5)),
			number(quantile(delays, 0.99)),
			count(int(1000*float64(company.sent)/n)), number(1000*milliseconds(company.cpu)/n), company.knowledge(),
			times(company.changes))
		good.groups = append(good.groups, group{company.bar, []float64{quantile(sales, 0.5), quantile(delays, 0.5)}})
		bad.groups = append(bad.groups, group{company.bar, []float64{r.sum(failed, waited), r.sum(lost, doubled, phantom),
			r.missing()}})
	}
	if err := t.flush(); err != nil {
		return nil, err
	}
	if err := c.reportFaults(all); err != nil {
		return nil, err
	}
	bad.note = fmt.Sprintf("In every way %d buyers had no answer from sales, which was killed.", caught)
	return []chart{good, bad}, c.reportSlow()
}

func times(n int) string {
	switch n {
	case 0:
		return "never"
	case 1:
		return "once"
	}
	return fmt.Sprint(n, " times")
}

func (c *company) knowledge() string {
	words := c.knows
	if c.told != nil {
		words = append(slices.Clip(words), fmt.Sprint(len(c.consumers), " ", c.what))
	}
	if len(words) == 0 {
		return "nobody"
	}
	return strings.Join(words, ", ")
}

func (c *comparison) reportFaults(all map[*company]*results) error {
	fmt.Fprintf(c.out, "\nFaults: sales that failed or waited for more than %v; entries, each an order at one of the "+
		"three consumers, that were lost or doubled, or are phantoms: nobody bought them\n", longSale)
	columns := []string{"fault"}
	for _, company := range c.companies {
		columns = append(columns, company.title)
	}
	t := c.out.table(columns...)
	for _, f := range c.faults() {
		cells := []string{f.name}
		for _, company := range c.companies {
			cell := all[company].of(f.name)
			if f.name == newcomers {
				cell = all[company].late()
			}
			cells = append(cells, cell)
		}
		t.row(cells...)
	}
	return t.flush()
}

func (r *results) late() string {
	var words []string
	for _, n := range r.newcomers {
		words = append(words, count(n.missing)+" of "+count(n.of))
	}
	return strings.Join(words, ", ") + " missing"
}

func (r *results) missing() (n float64) {
	for _, newcomer := range r.newcomers {
		n += float64(newcomer.missing)
	}
	return n
}

func (c *comparison) reportSlow() error {
	fmt.Fprintf(c.out, "\nA slow consumer: each order takes it %v, one after the other\n", c.slow)
	t := c.out.table("way", "sale p50 ms", "p99 ms", "delay to it p50 ms", "p99 ms", "to the others p50 ms", "p99 ms")
	for _, company := range c.companies {
		sales := company.latencies(slowly)
		it, err := company.delays(slowly, company.consumers[1])
		if err != nil {
			return err
		}
		others, err := company.delays(slowly, company.consumers[0], company.consumers[2])
		if err != nil {
			return err
		}
		row := []string{company.title}
		for _, values := range [][]float64{sales, it, others} {
			row = append(row, number(quantile(values, 0.5)), number(quantile(values, 0.99)))
		}
		t.row(row...)
	}
	return t.flush()
}
