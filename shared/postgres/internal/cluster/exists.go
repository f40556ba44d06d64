package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const markerText = `A database of this service exists. A start that does not find its data fails, and does not begin over
without a word. To begin over, delete this file and the data.
`

// markersOf lists the files that record that the folder has had a database: in it, beside it and, if the folder above
// is a volume, beside that. A volume further up is not marked: see unmounted.
func markersOf(dir string) []string {
	above, name := filepath.Dir(dir), filepath.Base(dir)
	return []string{filepath.Join(dir, "exists"), dir + ".exists", above + "-" + name + ".exists"}
}

func (f *folder) markers() []string {
	if f.home == f.dir {
		return markersOf(f.dir)
	}
	return append(markersOf(f.dir), markersOf(f.home)...)
}

// mark writes these files, as far as this process may.
func (f *folder) mark() {
	for i, path := range f.markers() {
		if i%3 == 2 && (i > 2 || !slices.Contains(mounted(), filepath.Dir(f.dir))) || exists(path) {
			continue
		}
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o644)
		if err != nil {
			continue
		}
		_, _ = file.WriteString(markerText)
		_ = file.Sync()
		file.Close()
		syncFolder(filepath.Dir(path))
	}
}

// mayBegin returns an error if the folder had a database before, or may have one that is not mounted now.
func (f *folder) mayBegin() error {
	info, err := os.Lstat(f.data)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if _, err := os.Stat(f.data); errors.Is(err, fs.ErrNotExist) {
			target, _ := os.Readlink(f.data)
			return fmt.Errorf("%s leads to %s, which does not exist: restore or mount it, or, to start over, delete the link", f.data, target)
		}
	}
	entries, err := os.ReadDir(f.data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s holds files but no database, as PG_VERSION is missing: restore it, or, to start over, delete %[1]s%s",
			f.data, f.andMarkers())
	}
	if marked := f.andMarkers(); marked != "" {
		return fmt.Errorf("the database in %s is gone: mount its volume or restore it from a backup; to start over, delete%s",
			f.data, strings.TrimPrefix(marked, " and"))
	}
	if volume := unmounted(f.data); volume != "" {
		return fmt.Errorf("the data belongs in %s, but the volume %s of /etc/fstab is not mounted: mount it", f.data, volume)
	}
	return nil
}

// andMarkers returns the markers that exist, in the form " and A and B".
func (f *folder) andMarkers() (text string) {
	for _, path := range f.markers() {
		if _, err := os.Lstat(path); err == nil {
			text += " and " + path
		}
	}
	return text
}

// unmounted returns the volume at or above the path that /etc/fstab lists and that is not mounted, or "".
func unmounted(path string) string {
	table, _ := os.ReadFile("/etc/fstab")
	return missingVolume(path, mountPoints(string(table), 1), mounted())
}

func missingVolume(path string, volumes, mounted []string) string {
	for _, volume := range volumes {
		if strings.HasPrefix(path+"/", strings.TrimSuffix(volume, "/")+"/") && len(mounted) > 0 && !slices.Contains(mounted, volume) {
			return volume
		}
	}
	return ""
}

// mountPoints reads the column of mount points from an fstab(5) or /proc/self/mountinfo.
func mountPoints(table string, column int) (paths []string) {
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) > column && !strings.HasPrefix(f[0], "#") && strings.HasPrefix(f[column], "/") {
			paths = append(paths, filepath.Clean(strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[column])))
		}
	}
	return paths
}

func syncFolder(path string) {
	if f, err := os.Open(path); err == nil {
		_ = f.Sync()
		f.Close()
	}
}
