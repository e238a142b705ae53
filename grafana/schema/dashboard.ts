import type { Dashboard, DataQuery, Panel } from '@grafana/schema';
import type * as gauge from '@grafana/schema/dist/esm/raw/composable/gauge/panelcfg/x/GaugePanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// Written<T> is T as a JSON file has it: where T has an enum of strings, the file has one of them.
type Written<T> = T extends string
  ? `${T}`
  : T extends Array<infer U>
    ? Array<Written<U>>
    : T extends object
      ? { [K in keyof T]: Written<T[K]> }
      : T;

// WrittenDashboard is a dashboard's file.
export type WrittenDashboard = Written<Dashboard>;

// Dashboard leaves open what the options of a panel and a query are: those of the kinds of panels that are used are known.
type Query = Written<DataQuery> & {
  expr: string;
  legendFormat: string;
  editorMode: 'code';
  instant?: boolean;
  range?: boolean;
};
type Kind<Type, Options, Custom> = Omit<Written<Panel>, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Type;
  options: Partial<Written<Options>>;
  fieldConfig: Omit<NonNullable<Written<Panel>['fieldConfig']>, 'defaults'> & {
    defaults: Omit<NonNullable<Written<Panel>['fieldConfig']>['defaults'], 'custom'> & { custom?: Written<Custom> };
  };
  targets: Query[];
};

// KnownPanels are the panels of a dashboard's file, with their options.
export type KnownPanels = Array<
  | Kind<'timeseries', timeseries.Options, timeseries.FieldConfig>
  | Kind<'gauge', gauge.Options, never>
  | Kind<'stat', stat.Options, never>
>;
