// Package services lists the subscribers of Edison Cars.
package services

import (
	"github.com/edison-cars/data-feeds/shared/service/subscriber"
	"github.com/edison-cars/data-feeds/subscribers/assembly"
	"github.com/edison-cars/data-feeds/subscribers/billing"
	"github.com/edison-cars/data-feeds/subscribers/dashboard"
	"github.com/edison-cars/data-feeds/subscribers/mailer"
	"github.com/edison-cars/data-feeds/subscribers/relay"
	"github.com/edison-cars/data-feeds/subscribers/shipping"
	"github.com/edison-cars/data-feeds/subscribers/warehouse"
)

// All returns all services. A new one is added here.
func All() []*subscriber.Service {
	return []*subscriber.Service{
		warehouse.Service(),
		assembly.Service(),
		dashboard.Service,
		billing.Service,
		shipping.Service(),
		mailer.Service(),
		relay.Service(),
	}
}
