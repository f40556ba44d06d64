package postgres

// WithWatchdog has the private server watched as on a system whose kernel does not do it.
func WithWatchdog(cfg Config) Config {
	cfg.watchdog = true
	return cfg
}

// Volatile is for tests that are not about what a stop leaves on disk.
func Volatile(cfg Config) Config {
	cfg.volatile = true
	return cfg
}
