package grafana

import "fmt"

// Expressions must give a number, and a true one, while nothing happens:
//   - a rate of a counter that is there is 0;
//   - a quantile of nothing is NaN, so that quantile gives 0 instead: there was nothing that took time;
//   - an average of nothing is 0 over clamp_min(0, 1e-9), that is 0; a real rate is never as low as 1e-9;
//   - a share that went well is 1 minus the share that did not, so that it is 1, and no alarm, while there was nothing.

// rate is how much counters grow in a second, added up by these labels.
func rate(by, selector string) string {
	if by == "" {
		return fmt.Sprintf("sum(rate(%s[$__rate_interval]))", selector)
	}
	return fmt.Sprintf("sum by (%s) (rate(%s[$__rate_interval]))", by, selector)
}

// quantile is of all observations of a histogram that labels select.
func quantile(q, histogram, labels string) query {
	return query{
		expr: fmt.Sprintf("histogram_quantile(0.%s, %s) >= 0 or 0 * %s",
			q, rate("le", histogram+"_bucket"+labels), rate("", histogram+"_count"+labels)),
		legend: "p" + q,
	}
}

func quantiles(histogram, labels string) []query {
	return []query{quantile("50", histogram, labels), quantile("95", histogram, labels), quantile("99", histogram, labels)}
}

// average is of all observations of a histogram that labels select.
func average(by, histogram, labels string) string {
	return fmt.Sprintf("%s / clamp_min(%s, 1e-9)", rate(by, histogram+"_sum"+labels), rate(by, histogram+"_count"+labels))
}

// perMinute is for what happens seldom.
func perMinute(by, selector string) string { return "60 * " + rate(by, selector) }
