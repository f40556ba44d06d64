package sales

import "slices"

const currency = "EUR"

// A Model is a car on sale.
type Model struct {
	Model      string   `json:"model"`
	Name       string   `json:"name"`
	PriceCents int64    `json:"price_cents"`
	Options    []Option `json:"options"`
	Text       string   `json:"-"`
	RangeKM    int      `json:"-"`
}

// An Option is an extra that a buyer can add to a car.
type Option struct {
	Option     string `json:"option"`
	Name       string `json:"name"`
	PriceCents int64  `json:"price_cents"`
}

var (
	longRange  = Option{"long_range", "Long-range battery", 640_000}
	heatPump   = Option{"heat_pump", "Heat pump", 98_000}
	glassRoof  = Option{"glass_roof", "Glass roof", 120_000}
	towBar     = Option{"tow_bar", "Tow bar", 89_000}
	allWheel   = Option{"all_wheel_drive", "All-wheel drive", 410_000}
	autopilot  = Option{"driver_assistance", "Driver assistance", 250_000}
	thirdBench = Option{"third_row", "Third row of seats", 150_000}
)

var catalogue = []Model{
	{"volta", "Edison Volta", 2_699_000, []Option{longRange, heatPump, glassRoof}, "The city car: short outside, tall inside, charged while you shop.", 340},
	{"joule", "Edison Joule", 3_450_000, []Option{longRange, heatPump, towBar}, "The van for those who work: a pallet through the side door.", 300},
	{"ampere", "Edison Ampere", 3_899_000, []Option{longRange, heatPump, glassRoof, allWheel, autopilot}, "The family saloon: quiet, quick, and home on the charge it left with.", 510},
	{"ohm", "Edison Ohm", 4_990_000, []Option{longRange, heatPump, glassRoof, towBar, allWheel, autopilot, thirdBench}, "The estate that tows: seven seats, a flat floor, a hook for the caravan.", 470},
}

func findModel(model string) (*Model, bool) {
	i := slices.IndexFunc(catalogue, func(m Model) bool { return m.Model == model })
	if i < 0 {
		return nil, false
	}
	return &catalogue[i], true
}

// Option returns the option of the model with that code, and reports whether it exists.
func (m *Model) Option(option string) (*Option, bool) {
	i := slices.IndexFunc(m.Options, func(o Option) bool { return o.Option == option })
	if i < 0 {
		return nil, false
	}
	return &m.Options[i], true
}
