// Fills the column `robfig` of the golden table: what the cron library of OpenFaaS' connector does, with the zones of the
// bundled database of Go. Run it in this folder after a BLESS of the table: go run . <../it/golden.tsv >new.tsv
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for first := true; lines.Scan(); first = false {
		if first {
			fmt.Println(lines.Text())
			continue
		}
		cells := strings.Split(lines.Text(), "\t")
		set, err := time.Parse(time.RFC3339, cells[0])
		check(err)
		schedule, err := cron.ParseStandard(cells[3])
		check(err)
		zone, err := time.LoadLocation(strings.Split(cells[8], ",")[0])
		check(err)
		var fires []string
		until := set.Add(12 * time.Hour)
		for at := schedule.Next(set.Add(-12 * time.Hour).In(zone)); at.Before(until) && !at.IsZero(); at = schedule.Next(at) {
			fires = append(fires, at.UTC().Format(time.RFC3339))
		}
		cells[7] = "-"
		if len(fires) > 0 {
			cells[7] = strings.Join(fires, " ")
		}
		fmt.Println(strings.Join(cells, "\t"))
	}
	check(lines.Err())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
