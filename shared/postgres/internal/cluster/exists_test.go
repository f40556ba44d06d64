package cluster

import (
	"slices"
	"testing"
)

const fstab = `# comment
UUID=1 / ext4 errors=remount-ro 0 1
UUID=2	/srv	ext4	noauto 0 2
/dev/sdc /with\040space/ xfs defaults
UUID=3 none swap sw 0 0

/srv/x /var/lib/edison none bind
`

const mountinfo = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 8:2 /x /with\040space rw shared:2 - xfs /dev/sdc rw
`

func TestMissingVolume(t *testing.T) {
	t.Parallel()
	volumes, mounted := mountPoints(fstab, 1), mountPoints(mountinfo, 4)
	if want := []string{"/", "/srv", "/with space", "/var/lib/edison"}; !slices.Equal(volumes, want) {
		t.Errorf("%q, want %q", volumes, want)
	}
	for path, want := range map[string]string{
		"/home/edison/sales/data": "", "/srv/edison/sales/data": "/srv", "/srv": "/srv", "/srvx/data": "", "/with space/sales/data": "",
		"/var/lib/edison/sales/data": "/var/lib/edison", "/var/lib/edison-cars/sales/data": "",
	} {
		if got := missingVolume(path, volumes, mounted); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if got := missingVolume("/srv/data", volumes, nil); got != "" { // where nobody tells
		t.Errorf("%q", got)
	}
}
